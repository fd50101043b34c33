"""Sequences of calls, through which a model's states live: read from files, and cut."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mil_palettize.errors import ConfigError, EvaluationError
from mil_palettize.text import format_count
from mil_palettize.torch.array_files import AnyArray
from mil_palettize.torch.evaluator.model_pipeline import Evaluated
from mil_palettize.torch.made_up_inputs import default_shape
from mil_palettize.torch.pixels import Pixels, refuse_pixels
from mil_palettize.torch.python_files import is_defined
from mil_palettize.torch.sample_rows import samples_in
from mil_palettize.torch.samples import Samples, arrays_of, read_samples


def read_sequences(source: str | os.PathLike[str], module: Evaluated, pixels: Pixels | None = None) -> Samples:
    """As :func:`read_samples`, but what that takes for samples are the calls of one sequence, in their order. A file of
    arrays may also hold several, with an axis for sequences before that for calls, and a function may give lists."""
    path = Path(source)
    if not is_defined(os.fspath(source)) and path.suffix.lower() in (".npz", ".npy"):
        arrays = arrays_of(path, module)
        several = {name: array for name, array in arrays.items() if _axes_more(module, name, array) == 2}
        if several:
            refuse_pixels(path, pixels)
            return Samples([_sequence(path, module, arrays, several, i) for i in range(_count(path, several))])
    samples = read_samples(source, module, sequences=True, pixels=pixels)
    return Samples(in_one(samples), samples.notes)


def in_one(samples: Sequence[Any]) -> list[Any]:
    """Calls as one sequence; those that are sequences already stay."""
    if all(isinstance(sample, Mapping) for sample in samples):
        return [list(samples)]
    return list(samples)


def cut(samples: Sequence[Any], steps: int | None) -> list[Any]:
    """The first ``steps`` calls of each sequence, all where that is None. Raises ConfigError for less than 1."""
    if steps is not None and steps < 1:
        raise ConfigError(f"steps is {steps}; ask for at least 1 call")
    if steps is not None and all(isinstance(sample, Mapping) for sample in samples):
        raise ConfigError(f"steps is {steps}, but there are no sequences; give some (--sequence X), or leave it out")
    return [sample if isinstance(sample, Mapping) else list(sample)[:steps] for sample in samples]


def told(samples: Sequence[Any]) -> str:
    """How long sequences are, in words; "" where all samples are single calls."""
    lengths = [len(sample) for sample in samples if not isinstance(sample, Mapping)]
    if not lengths:
        return ""
    least, most = min(lengths), max(lengths)
    return (
        f", in sequences of {format_count(most, 'call')}"
        if least == most
        else f", in sequences of {least} to {most} calls"
    )


def _axes_more(module: Evaluated, name: str, array: AnyArray) -> int:
    """Than the model takes; 0 for what is no array."""
    kind = module.features.inputs[name].type
    return array.ndim - len(default_shape(kind.multiArrayType)) if kind.WhichOneof("Type") == "multiArrayType" else 0


def _count(path: Path, several: Mapping[str, AnyArray]) -> int:
    sizes = {name: array.shape[:2] for name, array in several.items()}
    if len(set(sizes.values())) > 1:
        shapes = ", ".join(f"{name!r} {calls} in each of {count}" for name, (count, calls) in sizes.items())
        raise EvaluationError(f"{path} has other numbers of calls for other inputs: {shapes}")
    return int(next(iter(sizes.values()))[0])


def _sequence(
    path: Path, module: Evaluated, arrays: Mapping[str, AnyArray], several: Mapping[str, AnyArray], number: int
) -> list[Any]:
    return list(samples_in(path, module, {**arrays, **{name: array[number] for name, array in several.items()}}))
