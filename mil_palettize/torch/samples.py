"""Samples as people have them: inputs of a model as arrays by name, from files, folders and functions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from mil_palettize.errors import EvaluationError
from mil_palettize.package.given_files import check_samples_exist
from mil_palettize.program.described_sizes import shape_refusal
from mil_palettize.torch.array_files import Arrays, load_arrays
from mil_palettize.torch.evaluator.model_pipeline import Evaluated
from mil_palettize.torch.evaluator.module import PathLike
from mil_palettize.torch.features import CHANNELS, GRAYSCALES
from mil_palettize.torch.function_inputs import inputs_of
from mil_palettize.torch.image_folder import holds_pictures, pictures
from mil_palettize.torch.json_lines import SUFFIXES, json_lines
from mil_palettize.torch.made_up_inputs import default_shape
from mil_palettize.torch.pixels import Pixels, refuse_pixels
from mil_palettize.torch.python_files import defined, is_defined, told
from mil_palettize.torch.sound_file import is_sound, windows

_SEQUENCE = "a sequence of calls, which is for calibration and compare; give the calls"


@dataclass(frozen=True)
class Samples(Sequence[Arrays]):
    """``arrays``: inputs by name, of each sample, lists of that where samples are sequences of calls; ``notes``: what
    was done to them on the way; ``names``: of pictures, their paths in the folder, with ``/``; empty for others."""

    arrays: Sequence[Any]
    notes: Sequence[str] = ()
    names: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.arrays)

    @overload
    def __getitem__(self, index: int) -> Arrays: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Arrays]: ...

    def __getitem__(self, index: int | slice) -> Arrays | Sequence[Arrays]:
        return self.arrays[index]

    @contextmanager
    def at(self, number: int) -> Iterator[Any]:
        """One sample. EvaluationErrors meanwhile say which it is, but for the first: what is wrong with that is wrong
        with all, mostly."""
        try:
            yield self[number]
        except EvaluationError as error:
            if not number:
                raise
            raise EvaluationError(f"{self.names[number] if self.names else f'sample {number}'}: {error}") from error


def read_samples(
    source: PathLike, module: Evaluated, *, sequences: bool = False, pixels: Pixels | None = None
) -> Samples:
    """Samples for ``module.predict``, at least one. ``sequences``: a function may also give lists of them, calls of a
    model with states one after another, and arrays may have an axis for sequences before that for samples. ``pixels``:
    what becomes of pictures where a model takes an array.

    ``source``: a ``.npz`` file that has an array for each input, of one sample, of several along an axis more in front,
    or along the first axis where the model's own is 1; a ``.npy`` file of the same for a model with one input; a
    picture, a folder of them or a ``.txt`` file of their paths, for a model that takes one; lines of JSON
    (:func:`json_lines`); sound (:func:`windows`); a folder of ``.npz`` files that are called as the model's functions;
    or ``FILE.py:NAME``, a function without arguments that gives (or an iterable of) samples: mappings as
    ``MLModel.predict`` takes them, or arrays for a model with one input.

    Raises PackageError for a file that cannot be read, EvaluationError for one that does not fit, ConfigError without
    Pillow and for a name that the file does not define.
    """
    check_samples_exist(source)
    source = inputs_of(module.function_name, module.functions, source)
    path = Path(source)
    if holds_pictures(path):
        return Samples(*pictures(path, module, pixels))
    refuse_pixels(source, pixels)
    if is_defined(os.fspath(source)):
        return Samples(_given(os.fspath(source), module, sequences))
    if path.suffix.lower() in SUFFIXES:
        return Samples(_lines(path, module, sequences))
    if is_sound(path):
        return Samples(*windows(path, module, _only_input(path, module)))
    return Samples(_held(path, module, arrays_of(path, module), sequences))


def _lines(path: Path, module: Evaluated, sequences: bool) -> list[Any]:
    needed = _needed(module)
    found = json_lines(path, module, needed[0] if len(needed) == 1 else None)
    if not sequences and any(isinstance(sample, list) for sample in found):
        raise EvaluationError(f"{path} has {_SEQUENCE}")
    return found


def arrays_of(path: Path, module: Evaluated) -> Arrays:
    """By input, as the file has them. Raises EvaluationError where these are not the model's inputs."""
    arrays = _loaded(path, module)
    module.features.check_names(arrays)
    lacking = sorted(module.features.inputs.keys() - arrays.keys() - module.features.defaults.keys())
    if lacking:
        raise EvaluationError(
            f"{path} lacks the input {lacking[0]!r}; it has {sorted(arrays)}, the model takes "
            f"{module.features.inputs_text()}"
        )
    return arrays


def _held(path: Path, module: Evaluated, arrays: Arrays, sequences: bool) -> list[Any]:
    """The samples that ``arrays`` hold, lists of calls where some have an axis more."""
    several = {name: array for name, array in arrays.items() if _axes_more(module, name, array) == 2}
    if several and not sequences:
        raise EvaluationError(f"{path} has {_SEQUENCE}")
    if not several:
        return _calls(path, module, arrays)
    return [
        _calls(path, module, {**arrays, **{name: array[number] for name, array in several.items()}})
        for number in range(_count(path, several))
    ]


def _calls(path: Path, module: Evaluated, arrays: Arrays) -> list[Arrays]:
    return _apart(path, {name: _split(module, name, array) for name, array in arrays.items()})


def _axes_more(module: Evaluated, name: str, array: np.ndarray) -> int:
    """Than the model takes; 0 for what is no array."""
    kind = module.features.inputs[name].type
    return array.ndim - len(default_shape(kind.multiArrayType)) if kind.WhichOneof("Type") == "multiArrayType" else 0


def _count(path: Path, several: Mapping[str, np.ndarray]) -> int:
    sizes = {name: array.shape[:2] for name, array in several.items()}
    if len(set(sizes.values())) > 1:
        shapes = ", ".join(f"{name!r} {calls} in each of {count}" for name, (count, calls) in sizes.items())
        raise EvaluationError(f"{path} has other numbers of calls for other inputs: {shapes}")
    return int(next(iter(sizes.values()))[0])


def _apart(path: Path, split: Mapping[str, np.ndarray | Sequence[np.ndarray]]) -> list[Arrays]:
    """Inputs that are lists of samples, one by one; those that are not are the same for all."""
    counts = {name: len(value) for name, value in split.items() if isinstance(value, list)}
    if not counts:
        return [{name: np.asarray(value) for name, value in split.items()}]
    if len(set(counts.values())) > 1 or min(counts.values()) < 1:
        raise EvaluationError(f"{path} has other numbers of samples for other inputs: {counts}")
    number = next(iter(counts.values()))
    return [{n: np.asarray(v[i] if n in counts else v) for n, v in split.items()} for i in range(number)]


def _split(module: Evaluated, name: str, array: np.ndarray) -> np.ndarray | list[np.ndarray]:
    """A list where the array is of several samples."""
    kind = module.features.inputs[name].type
    which = kind.WhichOneof("Type")
    if which == "imageType":
        return _pictures(name, array, gray=kind.imageType.colorSpace in GRAYSCALES)
    if which != "multiArrayType":
        return array
    usual = default_shape(kind.multiArrayType)
    if array.ndim == len(usual) + 1:
        return list(array)
    if array.ndim == len(usual) > 0 and usual[0] == 1 and not _takes(kind.multiArrayType, array.shape):
        single = (1, *array.shape[1:])
        if _takes(kind.multiArrayType, single):
            return [array[i : i + 1] for i in range(len(array))]
    return array


def _pictures(name: str, array: np.ndarray, *, gray: bool) -> np.ndarray | list[np.ndarray]:
    """A list where the array is of several pictures, with their channels last, or of several times what a program
    takes: one of four axes, the second of channels."""
    if array.ndim > 2 and array.shape[-1] in CHANNELS:
        return list(array) if array.ndim == 4 else array
    if array.ndim > 3 and array.shape[-3] in CHANNELS:
        several = array.ndim == 5 or (array.ndim == 4 and len(array) > 1)
        return [one.reshape(1, *array.shape[-3:]) for one in array] if several else array
    if array.ndim == 3 and not gray and array.shape[0] in CHANNELS[1:]:
        raise EvaluationError(
            f"input {name!r} of shape {list(array.shape)} may be one picture, channels first, or {len(array)} gray "
            "ones; give (height, width, channels), with an axis in front for several"
        )
    return list(array) if array.ndim == 3 else array


def _takes(kind: Any, shape: tuple[int, ...]) -> bool:
    if kind.WhichOneof("ShapeFlexibility") is None:
        return shape == default_shape(kind)
    return not shape_refusal(shape, kind)


def _only_input(what: object, module: Evaluated) -> str:
    """The name of what is given without one."""
    needed = _needed(module)
    if len(needed) != 1:
        raise EvaluationError(
            f"{what} holds a single array, and the model takes {module.features.inputs_text()}; save arrays by these "
            "names with numpy.savez"
        )
    return needed[0]


def _needed(module: Evaluated) -> list[str]:
    return [name for name in module.features.inputs if name not in module.features.defaults]


def _given(text: str, module: Evaluated, sequences: bool) -> list[Any]:
    """Of ``FILE.py:NAME``."""
    found = defined(text)
    try:
        samples: Iterable[Any] = found() if callable(found) else found
        listed = list(samples)
    except (Exception, SystemExit) as error:  # see ``defined``
        raise EvaluationError(f"{text} gives no samples: {told(error)}") from error
    if not listed:
        raise EvaluationError(f"{text} gives no sample; yield at least one")
    arrays: list[Any] = []
    for number, sample in enumerate(listed):
        what = f"sample {number} of {text}"
        if isinstance(sample, list | tuple) and sample and all(isinstance(call, Mapping) for call in sample):
            if not sequences:
                raise EvaluationError(f"{what} is {_SEQUENCE}")
            arrays.append([_named(call, what, module) for call in sample])
        else:
            arrays.append(_named(sample, what, module))
    return arrays


def _named(sample: Any, what: str, module: Evaluated) -> Arrays:
    named = sample if isinstance(sample, Mapping) else {_only_input(what, module): sample}
    module.features.check_names(named)
    return dict(named)


def _loaded(path: Path, module: Evaluated) -> Arrays:
    found = load_arrays(path)
    return {_only_input(path, module): found} if isinstance(found, np.ndarray) else found
