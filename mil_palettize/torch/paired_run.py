"""Two models run side by side, sample by sample: what differs in their outputs and in the results of their ops."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from mil_palettize.errors import EvaluationError
from mil_palettize.reports.model_comparison import OpComparison, OutputComparison
from mil_palettize.torch.evaluator.ops.random import drawing
from mil_palettize.torch.evaluator.program import OpInfo
from mil_palettize.torch.metrics import Sums
from mil_palettize.torch.op_captures import Capture, FirstNonFinite
from mil_palettize.torch.output_sums import OutputSums
from mil_palettize.torch.sides import PackageSide, RecordedSide, Sample, Side, TorchSide, as_model_gives


class PairedRun:
    """``one``: the original. ``per_op``: both are packages that the evaluator runs, and the results of their ops are
    compared too; those of only one are in memory. ``seed``: of what ops draw."""

    def __init__(self, one: Side, two: Side, *, per_op: bool, seed: int) -> None:
        self._pair = one, two
        self._foreign = isinstance(one, RecordedSide | TorchSide)
        self._per_op = per_op
        self._seed = seed
        self._samples = 0
        self._found: dict[str, OutputSums] = {}
        self._ops: dict[str, tuple[str, Sums]] = {}
        self._not_finite: tuple[Sample, int] | None = None  # the first sample that is none of the original, its seed
        self.unmatched = 0

    def add(self, sample: Sample) -> None:
        """Run both on ``sample``. Raises EvaluationError."""
        kept: dict[str, torch.Tensor] = {}
        matched: set[str] = set()
        extra: set[str] = set()

        def compare_with(op: OpInfo, name: str, value: torch.Tensor) -> None:
            before = kept.get(name)
            if before is None or before.shape != value.shape:
                extra.add(name)
                return
            matched.add(name)
            self._ops.setdefault(name, (op.type, Sums()))[1].add(before, value)

        keep = Capture(lambda op, name, value: kept.update({name: value}))
        results = [
            self._predict(0, sample, keep),
            self._predict(1, sample, Capture(compare_with)),
        ]
        self.unmatched = max(self.unmatched, len(kept.keys() - matched) + len(extra))
        single = sorted(results[0].keys() ^ results[1].keys())
        if single:
            path = self._pair[0 if single[0] in results[0] else 1].name
            raise EvaluationError(f"output {single[0]!r} is of {path} only; compare a model with its palette")
        for name, value in results[0].items():
            output = self._found.setdefault(name, OutputSums(name))
            two = results[1][name]
            output.add(as_model_gives(name, value, two) if self._foreign else value, two)
            if output.sums.original_non_finite and self._not_finite is None:
                self._not_finite = sample, self._seed + self._samples
        self._samples += 1

    def _predict(self, which: int, sample: Sample, capture: Capture) -> dict[str, Any]:
        side = self._pair[which]
        context: AbstractContextManager[Any] = nullcontext()
        if self._per_op and isinstance(side, PackageSide):
            context = side.module.listening(capture)
        try:
            with context, drawing(self._seed + self._samples):
                return side.outputs(sample)
        except EvaluationError as error:  # which of the two files it is about
            raise EvaluationError(f"{side.name}: {error}") from error

    def _first_non_finite(self) -> str:
        """Where values of the original stop being finite, in words; "" where all are, or ops cannot be seen."""
        original = self._pair[0]
        if self._not_finite is None or not isinstance(original, PackageSide):
            return ""
        listener = FirstNonFinite()
        sample, seed = self._not_finite
        with original.module.listening(listener), drawing(seed):
            original.module.results(sample)
        return listener.told()

    def notes(self) -> list[str]:
        return [
            f"Output {name!r} is longer or shorter in {o.other_shapes} of {o.samples} samples, where what is missing "
            "counts as zeros."
            for name, o in self._found.items()
            if o.other_shapes
        ]

    def outputs(self) -> list[OutputComparison]:
        """Of all outputs, over all samples."""
        first_non_finite = self._first_non_finite()
        figures = {name: output.figures for name, output in self._found.items()}
        telling = any(found is not None and not found.nothing for found in figures.values())
        return [o.comparison(figures[name], first_non_finite, telling=telling) for name, o in self._found.items()]

    def op_comparisons(self) -> list[OpComparison]:
        return [OpComparison(name, kind, sums.distance()) for name, (kind, sums) in self._ops.items()]
