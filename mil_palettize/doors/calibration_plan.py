"""The weights that are planned, each with the palette to make of it."""

from __future__ import annotations

from dataclasses import dataclass

from mil_palettize.encoding.encoder import Task
from mil_palettize.encoding.palette_cache import Clustered
from mil_palettize.planning.plan import Plan
from mil_palettize.program.forms import FORMS
from mil_palettize.program.model import Model
from mil_palettize.program.weight import Weight, WeightId
from mil_palettize.rewriting.planned_palettes import planned_task


@dataclass(frozen=True, eq=False)
class PlannedWeight:
    """A weight and the palette to make of it."""

    weight: Weight
    task: Task


def planned_weights(
    model: Model, plan: Plan, clustered: Clustered | None, *, sent: bool
) -> dict[WeightId, PlannedWeight]:
    """By what tells the constants apart. ``sent``: to other processes."""
    decisions = {d.weight.id: d for d in plan.decisions if d.specification is not None}
    found = {}
    for site in model.survey().sites:
        decision = decisions.get(site.weight.id)
        if decision is not None:
            form = FORMS[decision.weight.opset]
            assert form is not None
            task = planned_task(model, site, decision, form, clustered, sent=sent)
            found[site.weight.id] = PlannedWeight(decision.weight, task)
    return found
