"""Two packages run on the same inputs, and what differs: outputs, results of ops, weights."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from mil_palettize.errors import ConfigError, EvaluationError
from mil_palettize.reports.model_comparison import ModelComparison, OpComparison, OutputComparison
from mil_palettize.torch.coreml_runtime import CoreMLModel
from mil_palettize.torch.evaluator.model_pipeline import Evaluated, open_model
from mil_palettize.torch.evaluator.module import PathLike
from mil_palettize.torch.evaluator.ops.random import drawing
from mil_palettize.torch.evaluator.program import OpInfo
from mil_palettize.torch.features import GRAYSCALE_FLOAT16
from mil_palettize.torch.made_up_inputs import plausible_inputs
from mil_palettize.torch.metrics import Sums, snr_db
from mil_palettize.torch.samples import read_samples
from mil_palettize.torch.weight_pairs import weight_comparisons

RUNTIMES = ("torch", "coreml")
Sample = Mapping[str, Any]


def compare_models(
    original: PathLike,
    palettized: PathLike,
    inputs: Sample | Sequence[Sample] | None,
    *,
    random: int,
    seed: int,
    function: str | None,
    per_op: bool,
    precision: str,
    runtime: str,
    histograms: int,
) -> ModelComparison:
    """``mil_palettize.compare``, which says what these are."""
    if runtime not in RUNTIMES:
        raise ConfigError(f"runtime is {runtime!r}; use one of {list(RUNTIMES)}")
    if runtime == "coreml" and per_op:
        raise ConfigError("Core ML does not show the results of ops; per_op goes with the runtime 'torch'")
    modules = [open_model(p, function, precision=precision) for p in (original, palettized)]
    paths = [os.fspath(path) for path in (original, palettized)]
    _check_alike(paths, modules)
    samples, told = _samples(modules[0], inputs, random, seed)
    runners: list[Any] = list(modules)
    if runtime == "coreml":
        runners = [CoreMLModel(p, function, modules[0].features) for p in (original, palettized)]
    run = _Run(runners[0], runners[1], per_op, seed, paths)
    for sample in samples:
        run.add(sample)
    first_non_finite = run.first_non_finite()
    return ModelComparison(
        original=os.fspath(original),
        palettized=os.fspath(palettized),
        inputs=told,
        samples=len(samples),
        bytes_before=modules[0].package.nbytes(),
        bytes_after=modules[1].package.nbytes(),
        outputs=run.outputs(first_non_finite),
        weights=weight_comparisons(modules[0], modules[1], histograms),
        ops=run.op_comparisons(),
        unmatched=run.unmatched,
        precision=precision if runtime == "torch" else "the device's own precision",
        runtime=runtime if runtime == "torch" else "Core ML",
        notes=[*_notes(modules[0], inputs is None, function), *run.notes()],
    )


def compare_packages(
    original: PathLike, palettized: PathLike, inputs: PathLike | None = None, **options: Any
) -> ModelComparison:
    """``mil_palettize.compare`` with ``inputs`` of :func:`read_samples`; ``options``: all that it takes by name."""
    samples = None if inputs is None else read_samples(inputs, open_model(original, options["function"]))
    comparison = compare_models(original, palettized, samples, **options)
    if inputs is not None:
        comparison.inputs = f"inputs of {os.fspath(inputs)}"
        comparison.notes += [] if samples is None else samples.notes
    return comparison


def _check_alike(paths: Sequence[str], modules: Sequence[Evaluated]) -> None:
    """Raise EvaluationError where two models, by the names of what they take and give, are not one and its palette."""
    one, two = (module.features for module in modules)
    if one.inputs.keys() != two.inputs.keys() or one.outputs_described.keys() != two.outputs_described.keys():
        told = (
            f"{path} takes {features.inputs_text()} and gives {', '.join(map(repr, features.outputs_described))}"
            for path, features in zip(paths, (one, two), strict=True)
        )
        raise EvaluationError(f"these are different models: {'; '.join(told)}; compare a model with its palette")


def _notes(module: Evaluated, made_up: bool, function: str | None) -> Iterator[str]:
    if made_up:
        yield "The inputs are made up: figures of real ones differ, most of all for classifiers."
    if module.draws_random_numbers:
        yield "The model draws random numbers: both packages, and every run, got the same ones."
    others = [name for name in module.functions if name != module.function_name]
    if others and function is None:
        yield f"This is function {module.function_name!r}; the model also has {', '.join(others)}: ask for each."


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


class _Capture:
    """Keeps the results of ops by the names of their outputs, or compares them with those that were kept."""

    def __init__(self, handle: Callable[[OpInfo, str, torch.Tensor], None]) -> None:
        self._handle = handle

    def will_run(self, op: OpInfo, inputs: Mapping[str, Any]) -> None:
        """Inputs are results of other ops."""

    def did_run(self, op: OpInfo, outputs: Sequence[Any]) -> None:
        for name, value in zip(op.outputs, outputs, strict=True):
            if isinstance(value, torch.Tensor) and value.is_floating_point() and not op.nested:
                self._handle(op, name, value)


class _FirstNonFinite:
    """Finds the ops that first give NaN, and infinity: an infinity may be a mask, and NaN what came of it."""

    def __init__(self) -> None:
        self._found: dict[str, str] = {}

    def will_run(self, op: OpInfo, inputs: Mapping[str, Any]) -> None:
        """Inputs are results of other ops, or constants."""

    def did_run(self, op: OpInfo, outputs: Sequence[Any]) -> None:
        for value in outputs:
            if isinstance(value, torch.Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
                kinds = {"infinite": value.isinf(), "NaN": value.isnan()}
                for kind in (kind for kind, where in kinds.items() if bool(where.any())):
                    self._found.setdefault(kind, f"op {op.name!r} ({op.type})")

    def told(self) -> str:
        if len(set(self._found.values())) == 1:
            return f"first at {next(iter(self._found.values()))}"
        return ", ".join(f"{kind} first at {op}" for kind, op in self._found.items())


def _outputs(model: Evaluated | CoreMLModel, sample: Sample) -> dict[str, Any]:
    """What the model predicts, and its images also before they are rounded to bytes: there a difference may vanish."""
    if isinstance(model, CoreMLModel):
        return model.predict(sample)
    results = model.results(sample)
    predicted = model.features.outputs(results)
    images = {name: image for name in results if (image := model.features.image_output(name)) is not None}
    unrounded = {
        f"{name} (before rounding)": results[name].detach().cpu().numpy()
        for name, image in images.items()
        if image.colorSpace != GRAYSCALE_FLOAT16  # which is not rounded
    }
    return predicted | unrounded


def _most_probable(probabilities: Mapping[Any, float]) -> Any:
    return max(probabilities.items(), key=lambda item: item[1])[0]


def _of_one_length(name: str, one: np.ndarray, two: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes, or whatever else there may be more of: the shorter is filled with zeros."""
    if one.ndim != two.ndim or one.shape[1:] != two.shape[1:]:
        raise EvaluationError(f"output {name!r} is {list(one.shape)} of one model, {list(two.shape)} of the other")
    length = max(len(one), len(two))
    filled = [np.concatenate([a, np.zeros((length - len(a), *a.shape[1:]), a.dtype)]) for a in (one, two)]
    return filled[0], filled[1]


@dataclass
class _Output:
    shape: tuple[int, ...] = ()
    sums: Sums = field(default_factory=Sums)
    worst: float = math.inf
    samples: int = 0
    agreed: float = 0.0
    judged: bool = False
    numbers: bool = False
    labels: set[Any] = field(default_factory=set)
    other_shapes: int = 0

    def judge(self, agreed: float) -> None:
        self.judged, self.agreed = True, self.agreed + agreed

    def one_label(self) -> str:
        """Of text: why it tells nothing by itself, "" where it does. Beside probabilities it need not."""
        return f"it is always {next(iter(self.labels))!r}" if len(self.labels) == 1 else ""


class _Run:
    """Both models sample by sample; of each only one is in memory."""

    def __init__(self, one: Any, two: Any, per_op: bool, seed: int, paths: Sequence[str]) -> None:
        self._pair = one, two
        self._paths = paths
        self._per_op = per_op
        self._seed = seed
        self._samples = 0
        self._found: dict[str, _Output] = {}
        self._ops: dict[str, tuple[str, Sums]] = {}
        self._not_finite: tuple[Sample, int] | None = None  # the first sample that is none of the original, its seed
        self.unmatched = 0

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
        single = sorted(results[0].keys() ^ results[1].keys())
        if single:
            path = self._paths[0 if single[0] in results[0] else 1]
            raise EvaluationError(f"output {single[0]!r} is of {path} only; compare a model with its palette")
        for name, value in results[0].items():
            output = self._found.setdefault(name, _Output())
            self._add_output(output, name, value, results[1][name])
            if output.sums.original_non_finite and self._not_finite is None:
                self._not_finite = sample, self._seed + self._samples
        self._samples += 1

    def _predict(self, which: int, sample: Sample, capture: _Capture) -> dict[str, Any]:
        model = self._pair[which]
        context: AbstractContextManager[Any] = model.listening(capture) if self._per_op else nullcontext()
        try:
            with context, drawing(self._seed + self._samples):
                return _outputs(model, sample)
        except EvaluationError as error:  # which of the two files it is about
            raise EvaluationError(f"{self._paths[which]}: {error}") from error

    def first_non_finite(self) -> str:
        """Where values of the original stop being finite, in words; "" where all are, or ops cannot be seen."""
        if self._not_finite is None or isinstance(self._pair[0], CoreMLModel):
            return ""
        listener = _FirstNonFinite()
        sample, seed = self._not_finite
        with self._pair[0].listening(listener), drawing(seed):
            self._pair[0].results(sample)
        return listener.told()

    def _add_output(self, output: _Output, name: str, one: Any, two: Any) -> None:
        output.samples += 1
        if isinstance(one, dict) or isinstance(two, dict):
            if not isinstance(one, dict) or not isinstance(two, dict) or one.keys() != two.keys():
                raise EvaluationError(f"the classes of output {name!r} differ; compare a model with its palette")
            output.judge(_most_probable(one) == _most_probable(two))
            one, two = (np.array([values[label] for label in one], np.float64) for values in (one, two))
        if not isinstance(one, np.ndarray) or not isinstance(two, np.ndarray):
            output.judge(one == two)
            output.labels |= {one, two}
            return
        output.numbers, output.shape = True, one.shape
        if one.shape != two.shape:
            output.other_shapes += 1
            one, two = _of_one_length(name, one, two)
        if one.dtype.kind in "iub":
            output.judge(float(np.mean(one == two)) if one.size else 1.0)
        pair = torch.as_tensor(np.asarray(one, np.float64)), torch.as_tensor(np.asarray(two, np.float64))
        output.sums.add(*pair)
        output.worst = min(output.worst, snr_db(*pair))

    def notes(self) -> list[str]:
        return [
            f"Output {name!r} is longer or shorter in {o.other_shapes} of {o.samples} samples, where what is missing "
            "counts as zeros."
            for name, o in self._found.items()
            if o.other_shapes
        ]

    def outputs(self, first_non_finite: str) -> list[OutputComparison]:
        figures = {name: o.sums.distance() for name, o in self._found.items() if o.numbers}
        telling = any(not found.nothing for found in figures.values())
        return [
            OutputComparison(
                name,
                o.shape,
                figures.get(name),
                o.worst if o.numbers else None,
                o.agreed / o.samples if o.judged else None,
                figures[name].nothing if o.numbers else "" if telling else o.one_label(),
                first_non_finite if o.sums.original_non_finite else "",
            )
            for name, o in self._found.items()
        ]

    def op_comparisons(self) -> list[OpComparison]:
        return [OpComparison(name, kind, sums.distance()) for name, (kind, sums) in self._ops.items()]
