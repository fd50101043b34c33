"""Two packages run on the same inputs, and what differs: outputs, results of ops, weights."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from mil_palettize.errors import ConfigError, EvaluationError
from mil_palettize.package.given_files import is_reference
from mil_palettize.reports.compared_models import MADE_UP
from mil_palettize.reports.function_comparisons import joined
from mil_palettize.reports.model_comparison import ModelComparison
from mil_palettize.torch.asked_samples import samples_for
from mil_palettize.torch.attribution import attributions
from mil_palettize.torch.comparison_options import ALL, Options, Sample
from mil_palettize.torch.coreml_runtime import CoreMLModel
from mil_palettize.torch.evaluator.model_pipeline import Evaluated, open_model
from mil_palettize.torch.evaluator.module import PathLike
from mil_palettize.torch.function_inputs import inputs_for
from mil_palettize.torch.greedy import greedy_figures
from mil_palettize.torch.paired_run import paired
from mil_palettize.torch.reference import compare_with_recorded
from mil_palettize.torch.sides import DeviceSide, PackageSide, Side
from mil_palettize.torch.weight_pairs import weight_comparisons

Inputs = PathLike | Sample | Sequence[Sample] | Mapping[str, Sequence[Sample]] | None


def compare_models(original: PathLike, palettized: PathLike, inputs: Inputs, options: Options) -> ModelComparison:
    """``mil_palettize.compare``."""
    if is_reference(palettized):
        return compare_with_recorded(original, palettized, inputs, options)
    if options.function != ALL:
        return _compared(original, palettized, inputs, options, named=options.function is not None)
    functions = _shared_functions(original, palettized, options.precision)
    if len(functions) < 2:
        return _compared(original, palettized, inputs, replace(options, function=None), named=False)
    if options.greedy:
        raise ConfigError(f"greedy is of one function of {', '.join(functions)}; name it")
    every = {name: replace(options, function=name) for name in functions}
    return joined({name: _compared(original, palettized, inputs, one, named=False) for name, one in every.items()})


def _shared_functions(original: PathLike, palettized: PathLike, precision: str) -> list[str]:
    """The functions of both models, [] where they are pipelines. Raises EvaluationError where one has another."""
    one, two = (list(open_model(path, precision=precision).functions) for path in (original, palettized))
    single = sorted(set(one) ^ set(two))
    if single and max(len(one), len(two)) > 1:
        path = original if single[0] in one else palettized
        raise EvaluationError(f"function {single[0]!r} is of {path} only; name a function that both have")
    return one


def _compared(
    original: PathLike, palettized: PathLike, inputs: Inputs, options: Options, *, named: bool
) -> ModelComparison:
    """Of one function. ``named``: whether somebody asked for that one."""
    paths = [os.fspath(path) for path in (original, palettized)]
    modules = [
        open_model(path, options.function, precision=options.precision, memory=options.memory_of_each) for path in paths
    ]
    _check_alike(paths, modules)
    with inputs_for(modules[0], inputs, named=named) as own:
        samples, told = samples_for(modules[0], own, options)
        sides = [_side(path, module, options) for path, module in zip(paths, modules, strict=True)]
        run = paired(sides[0], sides[1], samples, options, modules[0])
        greedy = greedy_figures(sides[0], sides[1], modules[0], samples, options)
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
        greedy=greedy,
        attributions=attributions(modules[0], modules[1], samples, options) if options.attributed else [],
        pictures=run.pictures(),
        detections=run.detections(),
        detected=run.detected(),
        precision=options.told_precision,
        runtime=options.told_runtime,
        notes=[*_notes(modules[0], inputs is None, options.function), *run.notes(), *samples.notes],
    )


def _side(path: str, module: Evaluated, options: Options) -> Side:
    if options.runtime == "torch":
        return PackageSide(path, module)
    return DeviceSide(path, CoreMLModel(path, options.function, module.features))


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
        yield MADE_UP
    if module.draws_random_numbers:
        yield "The model draws random numbers: both packages, and every run, got the same ones."
    others = [name for name in module.functions if name != module.function_name]
    if others and function is None:
        yield (
            f"This is function {module.function_name!r}; the model also has {', '.join(others)}: ask for each, or for "
            f"{ALL!r}."
        )
