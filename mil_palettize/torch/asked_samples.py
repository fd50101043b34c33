"""The samples that a comparison runs on: made up, given, or read; calls, or sequences of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from mil_palettize.errors import ConfigError, EvaluationError
from mil_palettize.torch.comparison_options import Options
from mil_palettize.torch.evaluator.model_pipeline import Evaluated
from mil_palettize.torch.made_up_inputs import plausible_inputs
from mil_palettize.torch.pixels import Pixels, check_pictures
from mil_palettize.torch.samples import Samples, read_samples
from mil_palettize.torch.sequences import cut, in_one, read_sequences, told


def samples_for(module: Evaluated, inputs: Any, options: Options) -> tuple[Samples, str]:
    """``inputs`` of ``mil_palettize.compare``, and where they came from, in words: those of :func:`read_samples` or
    :func:`read_sequences`, what was given, or made up ones. Raises what these do."""
    samples, source = _found(module, inputs, options)
    if not isinstance(samples.arrays, list):  # single calls, read one by one, which may be more than memory holds
        cut(samples[:1], options.steps)
        return samples, source
    listed = cut(samples, options.steps)
    _check_calls(listed)
    return Samples(listed, samples.notes, samples.names), source + told(listed)


def _found(module: Evaluated, inputs: Any, options: Options) -> tuple[Samples, str]:
    check_pictures(options.pixels, inputs)
    if inputs is None:
        if options.random < 1:
            raise ConfigError(f"random is {options.random}; ask for at least 1 sample")
        made_up = plausible_inputs(module, options.random, options.seed)
        source = f"random inputs from the description, seed {options.seed}"
        return Samples(in_one(made_up) if options.sequence else made_up), source
    if isinstance(inputs, str | os.PathLike):
        read = read_sequences if options.sequence else _read
        return read(inputs, module, options.pixels), f"inputs of {os.fspath(inputs)}"
    samples: list[Any] = [inputs] if isinstance(inputs, Mapping) else list(inputs)
    if not samples:
        raise EvaluationError("there are no inputs; give at least one sample")
    return Samples(in_one(samples) if options.sequence else samples), "given inputs"


def _read(source: str | os.PathLike[str], module: Evaluated, pixels: Pixels | None) -> Samples:
    return read_samples(source, module, sequences=True, pixels=pixels)


def _check_calls(samples: Sequence[Any]) -> None:
    for number, sample in enumerate(samples):
        if isinstance(sample, Mapping):
            continue
        if not sample or not all(isinstance(call, Mapping) for call in sample):
            raise EvaluationError(f"sample {number} is no mapping of inputs, nor a sequence of them; give one of both")
