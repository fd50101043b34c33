"""The constants of a function that act as weights."""

from __future__ import annotations

from mil_palettize.program.roles import is_weight_input
from mil_palettize.program.sites import Site
from mil_palettize.program.stages import Stage
from mil_palettize.program.survey import survey
from mil_palettize.program.weight import WeightId


def weight_sites(stage: Stage, function: str) -> dict[WeightId, Site]:
    """By id: matrices of floats that some op reads as its weight. ``function``: its label."""
    return {
        site.weight.id: site
        for site in survey(stage).sites
        if site.node is not None
        and site.weight.function == function
        and site.weight.dtype in ("fp16", "fp32")
        and len(site.weight.shape) > 1
        and any(is_weight_input(c.op_type, c.input_name) for c in site.weight.consumers)
    }
