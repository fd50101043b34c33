"""What would be done to weights by the default settings, and why not."""

from __future__ import annotations

from mil_palettize.planning.plan import Decision, make_plan, not_above
from mil_palettize.program.forms import FIRST_WITH_PALETTES, FORMS
from mil_palettize.program.weight import Weight
from mil_palettize.request.normalised import Requests
from mil_palettize.request.palette_request import DEFAULT_WEIGHT_THRESHOLD, palette_request

ASSUMED_NBITS = 4
ASSUMED_THRESHOLD = DEFAULT_WEIGHT_THRESHOLD


def default_decisions(weights: list[Weight]) -> dict[Weight, Decision]:
    """Of each, by k-means of :data:`ASSUMED_NBITS`; those at or below the threshold are left alone."""
    requests = Requests(palette_request({"mode": "kmeans", "nbits": ASSUMED_NBITS}), {}, {})
    after = {name: FIRST_WITH_PALETTES for name, form in FORMS.items() if form is None}
    plan = make_plan(
        weights, requests, select="weights", strict=False, opset_after=after, op_types=set(), op_names=set()
    )
    decided = {d.weight: d for d in plan.decisions}
    return {w: decided.get(w) or Decision(w, reason=w.obstacle or not_above(w, requests.threshold)) for w in weights}
