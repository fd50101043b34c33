"""Samples as people have them: inputs of a model as arrays by name, from files, folders and functions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from mil_palettize.errors import EvaluationError
from mil_palettize.package.given_files import check_samples_exist
from mil_palettize.torch.array_files import AnyArray, Arrays, open_arrays
from mil_palettize.torch.evaluator.model_pipeline import Evaluated
from mil_palettize.torch.evaluator.module import PathLike
from mil_palettize.torch.function_inputs import inputs_of
from mil_palettize.torch.image_folder import holds_pictures, pictures
from mil_palettize.torch.json_lines import SUFFIXES, json_lines
from mil_palettize.torch.pixels import Pixels, refuse_pixels
from mil_palettize.torch.python_files import defined, is_defined, told
from mil_palettize.torch.sample_rows import SEQUENCE, samples_in
from mil_palettize.torch.sound_file import is_sound, windows


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
    def naming(self, number: int) -> Iterator[None]:
        """EvaluationErrors meanwhile say which sample it is, but for the first: what is wrong with that is wrong with
        all, mostly."""
        try:
            yield
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
    return Samples(samples_in(path, module, _arrays(path, module), sequences=sequences))


def _lines(path: Path, module: Evaluated, sequences: bool) -> list[Any]:
    needed = _needed(module)
    found = json_lines(path, module, needed[0] if len(needed) == 1 else None)
    if not sequences and any(isinstance(sample, list) for sample in found):
        raise EvaluationError(f"{path} has {SEQUENCE}")
    return found


def _arrays(path: Path, module: Evaluated) -> dict[str, AnyArray]:
    """By input, as the file has them, large ones left there. Raises EvaluationError where these are not the model's
    inputs."""
    arrays = _loaded(path, module)
    module.features.check_names(arrays)
    lacking = sorted(module.features.inputs.keys() - arrays.keys() - module.features.defaults.keys())
    if lacking:
        raise EvaluationError(
            f"{path} lacks the input {lacking[0]!r}; it has {sorted(arrays)}, the model takes "
            f"{module.features.inputs_text()}"
        )
    return arrays


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
                raise EvaluationError(f"{what} is {SEQUENCE}")
            arrays.append([_named(call, what, module) for call in sample])
        else:
            arrays.append(_named(sample, what, module))
    return arrays


def _named(sample: Any, what: str, module: Evaluated) -> Arrays:
    named = sample if isinstance(sample, Mapping) else {_only_input(what, module): sample}
    module.features.check_names(named)
    return dict(named)


def _loaded(path: Path, module: Evaluated) -> dict[str, AnyArray]:
    found = open_arrays(path)
    return found if isinstance(found, dict) else {_only_input(path, module): found}
