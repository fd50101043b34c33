"""Two packages run on the same inputs, and what differs: outputs, results of ops, weights."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mil_palettize.errors import ConfigError, EvaluationError
from mil_palettize.reports.function_comparisons import joined
from mil_palettize.reports.model_comparison import ModelComparison
from mil_palettize.torch.coreml_runtime import CoreMLModel
from mil_palettize.torch.evaluator.model_pipeline import Evaluated, open_model
from mil_palettize.torch.evaluator.module import PathLike
from mil_palettize.torch.function_inputs import ALL, inputs_of
from mil_palettize.torch.made_up_inputs import plausible_inputs
from mil_palettize.torch.paired_run import PairedRun
from mil_palettize.torch.samples import Samples, read_samples
from mil_palettize.torch.weight_pairs import weight_comparisons

RUNTIMES = ("torch", "coreml")
Sample = Mapping[str, Any]
Inputs = PathLike | Sample | Sequence[Sample] | Mapping[str, Sequence[Sample]] | None


@dataclass(frozen=True)
class Options:
    """Those of ``mil_palettize.compare``, which says what they are."""

    random: int = 8
    seed: int = 0
    function: str | None = None
    per_op: bool = False
    precision: str = "fp32"
    runtime: str = "torch"
    histograms: int = 0


def compare_models(original: PathLike, palettized: PathLike, inputs: Inputs, options: Options) -> ModelComparison:
    """``mil_palettize.compare``."""
    if options.runtime not in RUNTIMES:
        raise ConfigError(f"runtime is {options.runtime!r}; use one of {list(RUNTIMES)}")
    if options.runtime == "coreml" and options.per_op:
        raise ConfigError("Core ML does not show the results of ops; per_op goes with the runtime 'torch'")
    if options.function != ALL:
        return _compared(original, palettized, inputs, options)
    functions = _shared_functions(original, palettized, options.precision)
    if len(functions) < 2:
        return _compared(original, palettized, inputs, replace(options, function=None))
    return joined({name: _of_function(name, functions, original, palettized, inputs, options) for name in functions})


def _shared_functions(original: PathLike, palettized: PathLike, precision: str) -> list[str]:
    """The functions of both models, [] where they are pipelines. Raises EvaluationError where one has another."""
    one, two = (list(open_model(path, precision=precision).functions) for path in (original, palettized))
    single = sorted(set(one) ^ set(two))
    if single and max(len(one), len(two)) > 1:
        path = original if single[0] in one else palettized
        raise EvaluationError(f"function {single[0]!r} is of {path} only; name a function that both have")
    return one


def _of_function(
    name: str, functions: Sequence[str], original: PathLike, palettized: PathLike, inputs: Inputs, options: Options
) -> ModelComparison:
    own = inputs_of(name, functions, inputs)
    try:
        return _compared(original, palettized, own, replace(options, function=name))
    except EvaluationError as error:
        advice = "" if inputs is None or own is not inputs else "; name the function that the inputs are for"
        raise EvaluationError(f"function {name!r}: {error}{advice}") from error


def _compared(original: PathLike, palettized: PathLike, inputs: Inputs, options: Options) -> ModelComparison:
    """Of one function."""
    paths = [os.fspath(path) for path in (original, palettized)]
    modules = [open_model(path, options.function, precision=options.precision) for path in paths]
    _check_alike(paths, modules)
    samples, told = _samples(modules[0], inputs, options)
    runners: list[Any] = list(modules)
    if options.runtime == "coreml":
        runners = [CoreMLModel(path, options.function, modules[0].features) for path in paths]
    run = PairedRun(runners[0], runners[1], options.per_op, options.seed, paths)
    for sample in samples:
        run.add(sample)
    return ModelComparison(
        original=paths[0],
        palettized=paths[1],
        inputs=told,
        samples=len(samples),
        bytes_before=modules[0].package.nbytes(),
        bytes_after=modules[1].package.nbytes(),
        outputs=run.outputs(),
        weights=weight_comparisons(modules[0], modules[1], options.histograms),
        ops=run.op_comparisons(),
        unmatched=run.unmatched,
        precision=options.precision if options.runtime == "torch" else "the device's own precision",
        runtime=options.runtime if options.runtime == "torch" else "Core ML",
        notes=[*_notes(modules[0], inputs is None, options.function), *run.notes(), *samples.notes],
    )


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
        yield (
            f"This is function {module.function_name!r}; the model also has {', '.join(others)}: ask for each, or for "
            f"{ALL!r}."
        )


def _samples(module: Evaluated, inputs: Any, options: Options) -> tuple[Samples, str]:
    """And where they came from, in words."""
    if inputs is None:
        if options.random < 1:
            raise ConfigError(f"random is {options.random}; ask for at least 1 sample")
        made_up = plausible_inputs(module, options.random, options.seed)
        return Samples(made_up), f"random inputs from the description, seed {options.seed}"
    if isinstance(inputs, str | os.PathLike):
        return read_samples(inputs, module), f"inputs of {os.fspath(inputs)}"
    samples: list[Any] = [inputs] if isinstance(inputs, Mapping) else list(inputs)
    if not samples:
        raise EvaluationError("there are no inputs; give at least one sample")
    return Samples(samples), "given inputs"
