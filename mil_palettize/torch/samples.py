"""Samples from files: inputs of a model as arrays by name."""

from __future__ import annotations

import lzma
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from mil_palettize.errors import EvaluationError, PackageError
from mil_palettize.torch.evaluator.model_pipeline import Evaluated
from mil_palettize.torch.evaluator.module import PathLike
from mil_palettize.torch.features import CHANNELS
from mil_palettize.torch.made_up_inputs import default_shape

Arrays = dict[str, np.ndarray]
# What zipfile and numpy raise for files that are damaged, encrypted (RuntimeError) or of unknown compression.
_UNREADABLE = (
    OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, tokenize.TokenError,
)  # fmt: skip


def read_samples(path: PathLike, module: Evaluated) -> list[Arrays]:
    """Samples of a ``.npz`` file that has an array for each input of the model: one, or with an axis more in front,
    several. Raises PackageError for a file that cannot be read, EvaluationError for one that does not fit."""
    arrays = _loaded(Path(path))
    module.features.check_names(arrays)
    lacking = sorted(module.features.inputs.keys() - arrays.keys() - module.features.defaults.keys())
    if lacking:
        raise EvaluationError(f"{path} lacks the input {lacking[0]!r}; it has {sorted(arrays)}")
    several = {name for name, array in arrays.items() if array.ndim == _rank(module, name, array) + 1}
    if not several:
        return [arrays]
    counts = {name: len(arrays[name]) for name in several}
    if len(set(counts.values())) > 1 or min(counts.values()) < 1:
        raise EvaluationError(f"{path} has other numbers of samples for other inputs: {counts}")
    number = next(iter(counts.values()))
    return [{n: a[i] if n in several else a for n, a in arrays.items()} for i in range(number)]


def _rank(module: Evaluated, name: str, array: np.ndarray) -> int:
    """Axes of one sample."""
    kind = module.features.inputs[name].type
    if kind.WhichOneof("Type") == "imageType":
        return 3 if array.ndim > 2 and array.shape[-1] in CHANNELS else 2
    if kind.WhichOneof("Type") == "multiArrayType":
        return len(default_shape(kind.multiArrayType))
    return array.ndim


def _loaded(path: Path) -> Arrays:
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            raise EvaluationError(f"{path} holds a single array; save arrays by input names with numpy.savez")
        with found as file:
            return {name: _member(file, name) for name in file.files}
    except EvaluationError:
        raise
    except _UNREADABLE as error:
        told = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise PackageError(f"cannot read {path}: {told}; it must be a .npz file of plain arrays") from error


def _member(file: Any, name: str) -> np.ndarray:
    """Raises ValueError for a member that is no array, which numpy gives as bytes."""
    array = file[name]
    if not isinstance(array, np.ndarray):
        raise ValueError(f"its member {name!r} is no array")
    return array
