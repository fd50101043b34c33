"""Which weights make the error of a model's outputs: each is put into the original alone, and the error measured.

First-order terms (the gradient of the error times each weight's change) would take fewer runs, but on real packages
their sum is from -0.5 to 3.4 times the error, where that of weights alone is 0.9 to 1.3 times; nor has every op a
gradient. See ``docs/judging.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from mil_palettize.reports.attribution import Attribution, WeightLoss
from mil_palettize.torch.comparison_options import Options
from mil_palettize.torch.evaluator.model_pipeline import Evaluated
from mil_palettize.torch.paired_run import PairedRun
from mil_palettize.torch.sides import KeptSide, PackageSide
from mil_palettize.torch.weight_pairs import paired_weights

SAMPLES = 4  # at most: every weight is one more run of each
_WITHOUT = 10  # weights, the worst, of which it is measured what is left without them


def attributions(
    original: Evaluated, palettized: Evaluated, samples: Sequence[Any], options: Options
) -> list[Attribution]:
    """Of the first :data:`SAMPLES` of ``samples``, by weights of ``original`` that differ in ``palettized``; none where
    none does. Raises EvaluationError where a weight alone makes a model that cannot be run."""
    used = list(samples[:SAMPLES])
    before, after, pairs = original.weights_by_id, palettized.weights_by_id, paired_weights(original, palettized)
    changed = {w: after[pairs[w]].detach() for w in before if w in pairs and _differ(before[w], after[pairs[w]])}
    if not changed:
        return []
    measure = _Measure(original, used, options, len(changed))
    errors = {weight: measure.error({before[weight]: value}) for weight, value in changed.items()}
    order = sorted(errors, key=lambda weight: -errors[weight])
    without = [
        measure.error({before[weight]: changed[weight] for weight in order[count:]})
        for count in range(min(len(order), _WITHOUT) + 1)
    ]
    names = {weight: name for name, weight in original.weight_ids.items()}
    readers = original.weight_readers
    left = [*without[1:], *[None] * (len(order) - len(without) + 1)]
    losses = (
        WeightLoss(names[weight], errors[weight], readers.get(weight, ""), rest)
        for weight, rest in zip(order, left, strict=True)
    )
    return [Attribution(tuple(losses), without[0], len(used))]


class _Measure:
    """The error that changed weights make in ``module``, whose outputs with its own are kept. ``weights``:
    how many will be asked for."""

    def __init__(self, module: Evaluated, samples: Sequence[Any], options: Options, weights: int) -> None:
        self._module, self._samples, self._options = module, samples, options
        self._side = PackageSide("the original with other weights", module)
        self._before = KeptSide(self._side)
        self._done, self._all = 0, 1 + weights + min(weights, _WITHOUT) + 1
        self.error({})

    def error(self, changed: Mapping[torch.nn.Parameter, torch.Tensor]) -> float:
        """As of :class:`WeightLoss`, with these values for these weights."""
        run = PairedRun(
            self._before.again(), self._side, per_op=False, seed=self._options.seed, boxes=self._module.boxes
        )
        with _changed(changed):
            for sample in self._samples:
                run.add(sample)
        self._done += 1
        self._options.count("weight by weight", self._done, self._all)
        return run.error


@contextmanager
def _changed(values: Mapping[torch.nn.Parameter, torch.Tensor]) -> Iterator[None]:
    kept = {parameter: parameter.data for parameter in values}
    try:
        for parameter, value in values.items():
            parameter.data = value
        yield
    finally:
        for parameter, value in kept.items():
            parameter.data = value


def _differ(one: torch.Tensor, two: torch.Tensor) -> bool:
    return one.shape == two.shape and not torch.equal(one, two)
