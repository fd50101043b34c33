"""The weights of a model beside those of another that was made of it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from mil_palettize.program.counterparts import counterparts, sampled
from mil_palettize.program.weight import WeightId
from mil_palettize.reports.compared_parts import WeightComparison
from mil_palettize.torch.evaluator.model_pipeline import Evaluated
from mil_palettize.torch.metrics import snr_db

_BINS = 96
_FEW = 256  # distinct values that are shown as a palette


def weight_comparisons(one: Evaluated, two: Evaluated, histograms: int = 0) -> list[WeightComparison]:
    """Weights of ``one`` that are also in ``two``; of the ``histograms`` that lost most, how values are spread."""
    pairs = paired_weights(one, two)
    found = {
        weight: WeightComparison(
            name,
            one.weight_facts[weight].shape,
            one.stored_bytes(weight),
            two.stored_bytes(pairs[weight]),
            snr_db(one.weight(weight), two.weight(pairs[weight])),
        )
        for name, weight in one.weight_ids.items()
        if weight in pairs and two.weight_facts[pairs[weight]].shape == one.weight_facts[weight].shape
    }
    lossy = (weight for weight in found if found[weight].snr_db < math.inf)
    for weight in sorted(lossy, key=lambda weight: found[weight].snr_db)[:histograms]:
        found[weight] = _spread(found[weight], one.weight(weight), two.weight(pairs[weight]))
    return list(found.values())


def paired_weights(one: Evaluated, two: Evaluated) -> dict[WeightId, WeightId]:
    """Weights of ``one`` with those of ``two`` that were made of them."""
    before, after = set(one.weight_ids.values()), set(two.weight_ids.values())
    return counterparts(
        [facts for weight, facts in one.weight_facts.items() if weight in before],
        [facts for weight, facts in two.weight_facts.items() if weight in after],
        lambda weight: sampled(one.weight(weight).numpy()),
        lambda weight: sampled(two.weight(weight).numpy()),
    )


def _spread(weight: WeightComparison, one: torch.Tensor, two: torch.Tensor) -> WeightComparison:
    values = one.detach().double().reshape(-1).numpy()
    counts, edges = np.histogram(values[np.isfinite(values)], _BINS)
    entries = torch.unique(two.detach())
    few = entries.tolist() if entries.numel() <= _FEW else []
    return replace(weight, edges=tuple(edges.tolist()), counts=tuple(counts.tolist()), entries=tuple(few))
