"""The weights of a model beside those of another that was made of it."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import replace

import numpy as np
import torch

from mil_palettize.reports.model_comparison import WeightComparison
from mil_palettize.torch.evaluator.model_pipeline import Evaluated
from mil_palettize.torch.metrics import snr_db

# As coremltools, and the doors that do as it does, call what they compressed.
_COMPRESSED = re.compile(r"(_palettized(_pcs)?|_quantized|_sparsified)+(_\d+)?")
_BINS = 96
_FEW = 256  # distinct values that are shown as a palette


def weight_comparisons(one: Evaluated, two: Evaluated, histograms: int = 0) -> list[WeightComparison]:
    """Weights of ``one`` that are also in ``two``; of the ``histograms`` that lost most, how values are spread."""
    before, after = one.weights, two.weights
    counterparts = {name: other for name in before if (other := _counterpart(name, after)) is not None}
    found = [
        WeightComparison(
            name,
            tuple(before[name].shape),
            one.stored_bytes(name),
            two.stored_bytes(other),
            snr_db(before[name], after[other]),
        )
        for name, other in counterparts.items()
        if after[other].shape == before[name].shape
    ]
    worst = sorted((w for w in found if w.snr_db < math.inf), key=lambda w: w.snr_db)[:histograms]
    shown = {w.name for w in worst}
    return [_spread(w, before[w.name], after[counterparts[w.name]]) if w.name in shown else w for w in found]


def _counterpart(name: str, names: Collection[str]) -> str | None:
    if name in names:
        return name
    return next((n for n in names if n.startswith(name) and _COMPRESSED.fullmatch(n[len(name) :])), None)


def _spread(weight: WeightComparison, one: torch.Tensor, two: torch.Tensor) -> WeightComparison:
    values = one.detach().double().reshape(-1).numpy()
    counts, edges = np.histogram(values[np.isfinite(values)], _BINS)
    entries = torch.unique(two.detach())
    few = entries.tolist() if entries.numel() <= _FEW else []
    return replace(weight, edges=tuple(edges.tolist()), counts=tuple(counts.tolist()), entries=tuple(few))
