"""Why weights would be left alone by the default settings."""

from __future__ import annotations

from mil_palettize.planning.plan import make_plan
from mil_palettize.program.forms import FIRST_WITH_PALETTES, FORMS
from mil_palettize.program.weight import Weight
from mil_palettize.request.normalised import Requests
from mil_palettize.request.palette_request import palette_request

ASSUMED_NBITS = 4


def default_reasons(weights: list[Weight]) -> dict[Weight, str]:
    """Why each would be left alone by k-means of :data:`ASSUMED_NBITS`, "" where it would be palettized."""
    requests = Requests(palette_request({"mode": "kmeans", "nbits": ASSUMED_NBITS}), {}, {})
    after = {name: FIRST_WITH_PALETTES for name, form in FORMS.items() if form is None}
    plan = make_plan(
        weights, requests, select="weights", strict=False, opset_after=after, op_types=set(), op_names=set()
    )
    decided = {d.weight: d for d in plan.decisions}
    small = "{:,} elements, not above weight_threshold={:,}"
    return {
        w: decided[w].reason if w in decided else w.obstacle or small.format(w.size, requests.threshold)
        for w in weights
    }
