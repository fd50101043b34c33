"""A package beside what something else gives: outputs in a file, or a torch module. That is the original then."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from mil_palettize.errors import ConfigError, EvaluationError
from mil_palettize.reports.model_comparison import ModelComparison
from mil_palettize.reports.repeated_call import call_text
from mil_palettize.torch.array_files import load_arrays
from mil_palettize.torch.asked_samples import samples_for
from mil_palettize.torch.comparison_options import ALL, Options, Sample
from mil_palettize.torch.coreml_runtime import CoreMLModel
from mil_palettize.torch.evaluator.model_pipeline import Evaluated, open_model
from mil_palettize.torch.evaluator.module import PathLike
from mil_palettize.torch.function_inputs import inputs_for
from mil_palettize.torch.paired_run import paired
from mil_palettize.torch.samples import Samples
from mil_palettize.torch.sides import DeviceSide, PackageSide, RecordedSide, Side, TorchSide


def compare_with_recorded(package: PathLike, reference: PathLike, inputs: Any, options: Options) -> ModelComparison:
    """``mil_palettize.compare`` with a ``.npz`` file of outputs, or a ``.npy`` file of the only one."""
    if inputs is None:
        raise ConfigError(f"{reference} holds outputs: give the inputs that they are of (--inputs)")
    if options.function == ALL:
        raise ConfigError(f"{reference} is of one function; name it")
    if options.per_op or options.greedy:
        what = "per_op" if options.per_op else "greedy"
        raise ConfigError(f"{reference} is of outputs only; leave {what} out")
    module = open_model(package, options.function, precision=options.precision, memory=options.memory)
    arrays = load_arrays(Path(reference), "save outputs by name with numpy.savez")
    if isinstance(arrays, np.ndarray):
        outputs = list(module.features.outputs_described)
        if len(outputs) != 1:
            raise EvaluationError(
                f"{reference} holds one array without a name, and the model gives {', '.join(map(repr, outputs))}; "
                "save outputs by name with numpy.savez"
            )
        arrays = {outputs[0]: arrays}
    with inputs_for(module, inputs, named=options.function is not None) as own:
        samples, told = samples_for(module, own, options)
        calls = sum(1 if isinstance(sample, Mapping) else len(sample) for sample in samples)
        recorded = RecordedSide(os.fspath(reference), arrays, calls, module.features)
        return _judged(recorded, recorded.names, package, module, samples, told, options)


def compare_with(
    module: nn.Module,
    package: PathLike,
    samples: PathLike | Sample | Sequence[Sample] | None = None,
    *,
    arguments: Callable[[Sample], Any] | None = None,
    outputs: Sequence[str] | None = None,
    random: int = 8,
    seed: int = 0,
    function: str | None = None,
    precision: str = "fp32",
    logits: Sequence[str] = (),
    labels: Any = None,
) -> ModelComparison:
    """How far a package is from the torch model it was made of: as ``mil_palettize.compare``, with ``module`` for the
    original; weights and ops are not compared.

    ``samples``: the package's inputs by name, as ``compare`` takes them; the module gets them as tensors in the order
    of the description, or what ``arguments`` makes of a sample (a tuple, or a mapping for keywords). ``outputs``: names
    of the module's results in their order, else all outputs but a classifier's label, in the order of the description.
    Results are tensors of the shapes of the package's outputs, axes of 1 in front aside; of a classifier's
    probabilities, in the order of its classes. The other arguments are those of ``compare``.

    Raises what ``compare`` does, and ConfigError for a module in training mode.

    >>> import coremltools as ct, torch
    >>> model = torch.nn.Linear(4, 2).eval()
    >>> traced = torch.jit.trace(model, torch.zeros(1, 4))
    >>> x = ct.TensorType("x", (1, 4))
    >>> ct.convert(traced, inputs=[x], skip_model_load=True).save("converted.mlpackage")
    >>> compare_with(model, "converted.mlpackage").snr_db > 40  # fp16 in the package
    True
    """
    call = call_text(compare_with, locals())
    opened = open_model(package, function, precision=precision)
    features = opened.features
    described = [name for name in features.outputs_described if name != features.label]  # no module gives labels
    names = described if outputs is None else list(outputs)
    options = Options(random=random, seed=seed, function=function, precision=precision, logits=logits, labels=labels)
    with inputs_for(opened, samples, named=function is not None) as own:
        side = TorchSide(module, features, names, arguments)
        listed, told = samples_for(opened, own, options)
        return replace(_judged(side, names, package, opened, listed, told, options), call=call)


def _judged(
    original: Side,
    names: Sequence[str],
    package: PathLike,
    module: Evaluated,
    samples: Samples,
    told: str,
    options: Options,
) -> ModelComparison:
    path = os.fspath(package)
    judged: Side = PackageSide(path, module, names)
    if options.runtime == "coreml":
        judged = DeviceSide(path, CoreMLModel(path, options.function, module.features), names)
    run = paired(original, judged, samples, options, module)
    return ModelComparison(
        original=original.name,
        palettized=path,
        inputs=told,
        samples=len(samples),
        bytes_before=0,
        bytes_after=module.package.nbytes(),
        outputs=run.outputs(),
        pictures=run.pictures(),
        detections=run.detections(),
        detected=run.detected(),
        precision=options.told_precision,
        runtime=options.told_runtime,
        notes=[*_notes(module, names), *run.notes(), *samples.notes],
    )


def _notes(module: Evaluated, names: Sequence[str]) -> Iterator[str]:
    others = [name for name in module.features.outputs_described if name not in names]
    if others:
        yield f"Not in the reference, and not compared: {', '.join(map(repr, others))}."
    if module.draws_random_numbers:
        yield "The model draws random numbers, which nothing else draws as it does."
