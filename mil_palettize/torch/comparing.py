"""Two packages run on the same inputs, and what differs: outputs, results of ops, weights."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from mil_palettize.errors import ConfigError, EvaluationError
from mil_palettize.evaluation import ModelComparison, OpComparison, OutputComparison
from mil_palettize.torch.metrics import Sums, snr_db
from mil_palettize.torch.module import PathLike
from mil_palettize.torch.pipeline import Evaluated, open_model
from mil_palettize.torch.plausible import plausible_inputs
from mil_palettize.torch.program import OpInfo
from mil_palettize.torch.weights import weight_comparisons

RUNTIMES = ("torch", "coreml")
Sample = Mapping[str, Any]


def compare_models(
    original: PathLike,
    palettized: PathLike,
    inputs: Sample | Sequence[Sample] | None = None,
    *,
    random: int = 8,
    seed: int = 0,
    function: str | None = None,
    per_op: bool = False,
    precision: str = "fp32",
    runtime: str = "torch",
    histograms: int = 0,
) -> ModelComparison:
    """See ``mil_palettize.compare``."""
    if runtime not in RUNTIMES:
        raise ConfigError(f"runtime is {runtime!r}; use one of {list(RUNTIMES)}")
    if runtime == "coreml" and per_op:
        raise ConfigError("Core ML does not show the results of ops; per_op goes with the runtime 'torch'")
    modules = [open_model(p, function, precision=precision) for p in (original, palettized)]
    samples, told = _samples(modules[0], inputs, random, seed)
    runners = modules if runtime == "torch" else [_CoreML(p, function) for p in (original, palettized)]
    run = _Run(runners[0], runners[1], modules[0], per_op)
    for sample in samples:
        run.add(sample)
    weights = weight_comparisons(modules[0], modules[1], histograms)
    notes = ["The inputs are made up: figures of real ones differ, most of all for classifiers."] if not inputs else []
    return ModelComparison(
        original=os.fspath(original),
        palettized=os.fspath(palettized),
        inputs=told,
        samples=len(samples),
        bytes_before=modules[0].package.nbytes(),
        bytes_after=modules[1].package.nbytes(),
        outputs=run.outputs(),
        weights=weights,
        ops=run.op_comparisons(),
        unmatched=run.unmatched,
        precision=precision if runtime == "torch" else "the device's own precision",
        runtime=runtime if runtime == "torch" else "Core ML",
        seconds=(run.seconds[0], run.seconds[1]),
        notes=notes,
    )


def _samples(
    module: Evaluated, inputs: Sample | Sequence[Sample] | None, count: int, seed: int
) -> tuple[list[Sample], str]:
    if inputs is None:
        if count < 1:
            raise ConfigError(f"random is {count}; ask for at least 1 sample")
        return list(plausible_inputs(module, count, seed)), f"random inputs from the description, seed {seed}"
    samples = [inputs] if isinstance(inputs, Mapping) else list(inputs)
    if not samples:
        raise EvaluationError("there are no inputs; give at least one sample")
    return samples, "given inputs"


class _CoreML:
    """A package run by Core ML itself, on a Mac."""

    _model: Any

    def __init__(self, path: PathLike, function: str | None) -> None:
        if sys.platform != "darwin":
            raise ConfigError("Core ML runs on Apple systems only; leave --runtime coreml out to compare with torch")
        from coremltools.models import MLModel

        self._model = MLModel(os.fspath(path), function_name=function)

    def predict(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return dict(self._model.predict(dict(inputs)))


class _Capture:
    """Keeps the results of ops by the names of their outputs, or compares them with those that were kept."""

    seconds = 0.0  # spent here

    def __init__(self, handle: Callable[[OpInfo, str, torch.Tensor], None]) -> None:
        self._handle = handle

    def will_run(self, op: OpInfo, inputs: Mapping[str, Any]) -> None:
        """Inputs are results of other ops."""

    def did_run(self, op: OpInfo, outputs: Sequence[Any]) -> None:
        start = time.perf_counter()
        for name, value in zip(op.outputs, outputs, strict=True):
            if isinstance(value, torch.Tensor) and value.is_floating_point() and not op.nested:
                self._handle(op, name, value)
        self.seconds += time.perf_counter() - start


def _most_probable(probabilities: Mapping[Any, float]) -> Any:
    return max(probabilities.items(), key=lambda item: item[1])[0]


@dataclass
class _Output:
    shape: tuple[int, ...] = ()
    sums: Sums = field(default_factory=Sums)
    worst: float = math.inf
    samples: int = 0
    agreed: float = 0.0
    judged: bool = False
    numbers: bool = False


class _Run:
    """Both models sample by sample; of each only one is in memory."""

    def __init__(self, one: Any, two: Any, module: Evaluated, per_op: bool) -> None:
        self._pair = one, two
        self._features = module.features
        self._per_op = per_op
        self._found: dict[str, _Output] = {}
        self._ops: dict[str, tuple[str, Sums]] = {}
        self.unmatched = 0
        self.seconds = [0.0, 0.0]

    def add(self, sample: Sample) -> None:
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

        keep = _Capture(lambda op, name, value: kept.update({name: value}))
        results = [
            self._predict(0, sample, keep),
            self._predict(1, sample, _Capture(compare_with)),
        ]
        self.unmatched = max(self.unmatched, len(kept.keys() - matched) + len(extra))
        for name, value in results[0].items():
            if name not in results[1]:
                raise EvaluationError(
                    f"only one of the models has an output {name!r}; compare a model with its palette"
                )
            self._add_output(self._found.setdefault(name, _Output()), name, value, results[1][name])

    def _predict(self, which: int, sample: Sample, capture: _Capture) -> dict[str, Any]:
        model = self._pair[which]
        context: AbstractContextManager[Any] = model.listening(capture) if self._per_op else nullcontext()
        start = time.perf_counter()
        with context:
            found: dict[str, Any] = model.predict(sample)
        self.seconds[which] += time.perf_counter() - start - capture.seconds
        return found

    def _add_output(self, output: _Output, name: str, one: Any, two: Any) -> None:
        output.samples += 1
        if isinstance(one, dict):
            output.judged, output.agreed = True, output.agreed + (_most_probable(one) == _most_probable(two))
            one, two = (np.array([values[label] for label in one], np.float64) for values in (one, two))
        if not isinstance(one, np.ndarray):
            output.judged, output.agreed = True, output.agreed + (one == two)
            return
        if one.shape != np.shape(two):
            raise EvaluationError(
                f"output {name!r} is {list(one.shape)} of one model, {list(np.shape(two))} of the other"
            )
        if one.dtype.kind in "iub":
            output.judged, output.agreed = True, output.agreed + float(np.mean(one == two) if one.size else 1.0)
        output.numbers, output.shape = True, one.shape
        pair = torch.as_tensor(np.asarray(one, np.float64)), torch.as_tensor(np.asarray(two, np.float64))
        output.sums.add(*pair)
        output.worst = min(output.worst, snr_db(*pair))

    def outputs(self) -> list[OutputComparison]:
        return [
            OutputComparison(
                name,
                o.shape,
                o.sums.figures() if o.numbers else None,
                o.worst if o.numbers else None,
                o.agreed / o.samples if o.judged else None,
            )
            for name, o in self._found.items()
        ]

    def op_comparisons(self) -> list[OpComparison]:
        return [OpComparison(name, kind, sums.figures()) for name, (kind, sums) in self._ops.items()]
