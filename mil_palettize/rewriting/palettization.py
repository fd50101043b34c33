"""One model palettized, whichever door it came through: planned, moved up as far as needed, written to a folder."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path

from mil_palettize.encoding.palette_cache import Clustered
from mil_palettize.encoding.results import Declined
from mil_palettize.encoding.workers import Workers
from mil_palettize.errors import ConfigError, PlanError
from mil_palettize.planning.plan import SELECTIONS, Plan, as_dense, make_plan
from mil_palettize.program.forms import FIRST_WITH_PALETTES, FORMS
from mil_palettize.program.model import Model
from mil_palettize.program.opsets.move import Opset, opset_of, parse_target
from mil_palettize.program.weight import Weight
from mil_palettize.reports.progress import Progress
from mil_palettize.reports.report import Moved, Report
from mil_palettize.reports.summary import complete
from mil_palettize.request.normalised import Requests
from mil_palettize.rewriting.other_files import folder_nbytes
from mil_palettize.rewriting.rewrite import Rewriter
from mil_palettize.text import format_count


@dataclass
class Prepared:
    """``model`` moved in memory, and what will be done to it."""

    model: Model
    plan: Plan
    moved: list[Moved]
    strict: bool


def prepare(
    model: Model,
    requests: Requests,
    *,
    target: object,
    select: str,
    strict: bool,
    redo: Container[tuple[str, str]] = (),
) -> Prepared:
    """Plan, moving the model in memory: to ``target``, or out of an opset that can hold no palette. ``redo``:
    (function, name) of compressed constants to plan for as if they were dense.

    Raises ConfigError and PlanError for everything that names, types, consumers and target rule out.
    """
    if select not in SELECTIONS:
        raise ConfigError(f"select is {select!r}, allowed are {SELECTIONS}")
    moved: list[Moved] = []
    after: dict[str, str] = {}
    if target is None:
        after = {name: FIRST_WITH_PALETTES for name, form in FORMS.items() if form is None}
    else:
        moved = _move(model, _palette_target(model, target))
    plan = _plan(model, requests, select, strict, after, redo)
    if any(d.specification is not None and d.weight.opset in after for d in plan.decisions):
        moved = _move(model, parse_target(FIRST_WITH_PALETTES))
        plan = _plan(model, requests, select, strict, {}, redo)
    return Prepared(model, plan, moved, strict)


def _palette_target(model: Model, target: object) -> Opset:
    opset = parse_target(target)
    if FORMS.get(opset.name) is None:
        raise ConfigError(f"target {opset.target} can hold no palettes; use iOS16 or later")
    model.refuse_moving_down(opset)
    return opset


def _plan(
    model: Model,
    requests: Requests,
    select: str,
    strict: bool,
    after: dict[str, str],
    redo: Container[tuple[str, str]],
) -> Plan:
    survey = model.survey()
    weights = (site.weight for site in survey.sites)
    return make_plan(
        [as_dense(weight) if (weight.function, weight.name) in redo else weight for weight in weights],
        requests,
        select=select,
        strict=strict,
        opset_after=after,
        op_types=survey.op_types,
        op_names=survey.op_names,
    )


def _move(model: Model, target: Opset) -> list[Moved]:
    before = {label: opset for label, opset in model.functions() if opset_of(opset).spec < target.spec}
    changes = model.move(target)
    moved = [
        Moved(label, "", "", f"{opset} ({opset_of(opset).target}) to {target.name} ({target.target})")
        for label, opset in before.items()
    ]
    return moved + [Moved(c.function, c.op_name, c.op_type, c.what) for c in changes]


def carry_out(
    prepared: Prepared,
    folder: Path,
    report: Report,
    *,
    pool: Workers,
    progress: Progress,
    rename: bool = False,
    clustered: Clustered | None = None,
) -> None:
    """Write the new package into the empty ``folder`` and complete ``report``.

    ``rename``: palettes are called as coremltools calls them, not as the constants they replace. ``clustered``: where
    palettes are kept. Raises PlanError under ``strict`` for weights whose values rule a palette out.
    """
    plan = prepared.plan
    planned = [d for d in plan.decisions if d.specification is not None]
    progress.start(len(planned), sum(d.weight.nbytes for d in planned))
    rewriter = Rewriter(
        prepared.model, plan, retype=bool(prepared.moved), rename=rename, clustered=clustered, progress=progress
    )
    done = rewriter.write(folder, pool)
    complete(report, plan, done)
    if prepared.strict:
        refuse_declined(done.results)
    report.bytes_after = folder_nbytes(folder)


def refuse_declined(results: Mapping[Weight, object]) -> None:
    """Raise PlanError for weights whose values rule out what was asked for."""
    unmet = [f"{w.key!r}: {r.reason}" for w, r in results.items() if isinstance(r, Declined) and r.unmet]
    if unmet:
        raise PlanError(
            f"strict: {format_count(len(unmet), 'weight')} cannot be palettized as asked: {'; '.join(unmet[:3])}"
        )
