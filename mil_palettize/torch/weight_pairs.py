"""The weights of a model beside those of another that was made of it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from mil_palettize.program.weight import WeightId
from mil_palettize.reports.compared_parts import WeightComparison
from mil_palettize.torch.evaluator.model_pipeline import Evaluated
from mil_palettize.torch.metrics import snr_db

# As coremltools, and the doors that do as it does, call what they compressed.
_COMPRESSED = re.compile(r"(_palettized(_pcs)?|_quantized|_sparsified)+(_\d+)?")
_BINS = 96
_FEW = 256  # distinct values that are shown as a palette


def weight_comparisons(one: Evaluated, two: Evaluated, histograms: int = 0) -> list[WeightComparison]:
    """Weights of ``one`` that are also in ``two``; of the ``histograms`` that lost most, how values are spread."""
    before, after = one.weights_by_id, two.weights_by_id
    others = {_in_any_function(weight): weight for weight in after}
    pairs = {weight: other for weight in before if (other := _counterpart(weight, others)) is not None}
    found = {
        weight: WeightComparison(
            name,
            tuple(before[weight].shape),
            one.stored_bytes(weight),
            two.stored_bytes(pairs[weight]),
            snr_db(before[weight], after[pairs[weight]]),
        )
        for name, weight in one.weight_ids.items()
        if weight in pairs and after[pairs[weight]].shape == before[weight].shape
    }
    lossy = (weight for weight in found if found[weight].snr_db < math.inf)
    for weight in sorted(lossy, key=lambda weight: found[weight].snr_db)[:histograms]:
        found[weight] = _spread(found[weight], before[weight], after[pairs[weight]])
    return list(found.values())


def _counterpart(weight: WeightId, others: Mapping[WeightId, WeightId]) -> WeightId | None:
    """The same weight of the other model, or what it is called there since it is compressed. ``others``: by
    :func:`_in_any_function`."""
    wanted = _in_any_function(weight)
    if wanted in others:
        return others[wanted]
    return next(
        (
            other
            for place, other in others.items()
            if place[:2] == wanted[:2]
            and place.name.startswith(wanted.name)
            and _COMPRESSED.fullmatch(place.name[len(wanted.name) :])
        ),
        None,
    )


def _in_any_function(weight: WeightId) -> WeightId:
    """Without the function's name: the one that is run may be called otherwise in the other model."""
    return weight._replace(function=weight.stage)


def _spread(weight: WeightComparison, one: torch.Tensor, two: torch.Tensor) -> WeightComparison:
    values = one.detach().double().reshape(-1).numpy()
    counts, edges = np.histogram(values[np.isfinite(values)], _BINS)
    entries = torch.unique(two.detach())
    few = entries.tolist() if entries.numel() <= _FEW else []
    return replace(weight, edges=tuple(edges.tolist()), counts=tuple(counts.tolist()), entries=tuple(few))
