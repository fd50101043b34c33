"""Arrays of several samples as these samples, which are read one by one where an array lies in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from mil_palettize.errors import EvaluationError, PackageError
from mil_palettize.package.stored_arrays import StoredArray
from mil_palettize.program.described_sizes import shape_refusal
from mil_palettize.torch.array_files import AnyArray, Arrays
from mil_palettize.torch.evaluator.model_pipeline import Evaluated
from mil_palettize.torch.features import CHANNELS, GRAYSCALES
from mil_palettize.torch.made_up_inputs import default_shape

SEQUENCE = "a sequence of calls, which is for calibration and compare; give the calls"


def samples_in(
    path: Path, module: Evaluated, arrays: Mapping[str, AnyArray], *, sequences: bool = False
) -> Sequence[Any]:
    """The samples that ``arrays`` hold, by input of ``module``: a list, but where they lie in the file. Where some have
    an axis more than several samples have, lists of calls, which have to be asked for."""
    several = {name: array for name, array in arrays.items() if _axes_more(module, name, array) == 2}
    if several and not sequences:
        raise EvaluationError(f"{path} has {SEQUENCE}")
    if not several:
        return _calls(path, module, arrays)
    return [
        list(_calls(path, module, {**arrays, **{name: array[number] for name, array in several.items()}}))
        for number in range(_count(path, several))
    ]


def _calls(path: Path, module: Evaluated, arrays: Mapping[str, AnyArray]) -> Sequence[Arrays]:
    rows = {name: found for name, array in arrays.items() if (found := _rows(module, name, array)) is not None}
    same = {name: _whole(array) for name, array in arrays.items() if name not in rows}
    if not rows:
        return [same]
    counts = {name: len(array) for name, array in rows.items()}
    if len(set(counts.values())) > 1 or min(counts.values()) < 1:
        raise EvaluationError(f"{path} has other numbers of samples for other inputs: {counts}")
    samples = _Samples(path, rows, same, range(next(iter(counts.values()))))
    return samples if any(isinstance(own.array, StoredArray) for own in rows.values()) else list(samples)


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


@dataclass(frozen=True)
class _Rows:
    """Of ``array``, each of ``shape``; None: as they are."""

    array: AnyArray
    shape: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.array)

    def row(self, number: int) -> np.ndarray:
        found = np.asarray(self.array[number])
        return found if self.shape is None else found.reshape(self.shape)


@dataclass(frozen=True)
class _Samples(Sequence[Arrays]):
    """``same``: inputs that are the same for all."""

    path: Path
    rows: Mapping[str, _Rows]
    same: Arrays
    numbers: range

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> Arrays: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Arrays]: ...

    def __getitem__(self, index: int | slice) -> Arrays | Sequence[Arrays]:
        if isinstance(index, slice):
            return _Samples(self.path, self.rows, self.same, self.numbers[index])
        number = self.numbers[index]
        try:
            return {**{name: own.row(number) for name, own in self.rows.items()}, **self.same}
        except OSError as error:
            raise PackageError(f"cannot read {self.path}: {error}; run again with files that stay") from error


def _whole(array: AnyArray) -> np.ndarray:
    return array.whole() if isinstance(array, StoredArray) else np.asarray(array)


def _rows(module: Evaluated, name: str, array: AnyArray) -> _Rows | None:
    """None where the array is of a single sample."""
    kind = module.features.inputs[name].type
    which = kind.WhichOneof("Type")
    if which == "imageType":
        return _pictures(name, array, gray=kind.imageType.colorSpace in GRAYSCALES)
    if which != "multiArrayType":
        return None
    usual = default_shape(kind.multiArrayType)
    if array.ndim == len(usual) + 1:
        return _Rows(array)
    if array.ndim == len(usual) > 0 and usual[0] == 1 and not _takes(kind.multiArrayType, array.shape):
        single = (1, *array.shape[1:])
        if _takes(kind.multiArrayType, single):
            return _Rows(array, single)
    return None


def _pictures(name: str, array: AnyArray, *, gray: bool) -> _Rows | None:
    """Rows where the array is of several pictures, with their channels last, or of several times what a program takes:
    one of four axes, the second of channels."""
    if array.ndim > 2 and array.shape[-1] in CHANNELS:
        return _Rows(array) if array.ndim == 4 else None
    if array.ndim > 3 and array.shape[-3] in CHANNELS:
        several = array.ndim == 5 or (array.ndim == 4 and len(array) > 1)
        return _Rows(array, (1, *array.shape[-3:])) if several else None
    if array.ndim == 3 and not gray and array.shape[0] in CHANNELS[1:]:
        raise EvaluationError(
            f"input {name!r} of shape {list(array.shape)} may be one picture, channels first, or {len(array)} gray "
            "ones; give (height, width, channels), with an axis in front for several"
        )
    return _Rows(array) if array.ndim == 3 else None


def _takes(kind: Any, shape: tuple[int, ...]) -> bool:
    if kind.WhichOneof("ShapeFlexibility") is None:
        return shape == default_shape(kind)
    return not shape_refusal(shape, kind)
