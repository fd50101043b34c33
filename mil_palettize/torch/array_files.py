"""``.npz`` and ``.npy`` files: arrays by name or a single one, and what is wrong with a file that holds none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np

from mil_palettize.errors import EvaluationError
from mil_palettize.package.array_files import open_members, read_members, unreadable
from mil_palettize.package.stored_arrays import StoredArray

Arrays = dict[str, np.ndarray]
AnyArray: TypeAlias = np.ndarray | StoredArray
Array = TypeVar("Array", bound=AnyArray)
LARGE = 1 << 26  # bytes of an array of samples that is left in its file
_SAMPLES = "save arrays by input names with numpy.savez, or give a .npy file, a folder of images, or FILE.py:NAME"
_WHAT = "a .npz or .npy file of plain arrays"


def load_arrays(path: Path, advice: str = _SAMPLES) -> Arrays | np.ndarray:
    """The arrays of a ``.npz`` file by name, or the one of a ``.npy`` file; each holds at least one element.
    ``advice``: what to give instead of a file that is no such.

    Raises PackageError for a file that cannot be read or is another thing, EvaluationError for one whose arrays are
    empty.
    """
    found = read_members(path, _WHAT, advice)
    if isinstance(found, np.ndarray):
        return _filled(path, "", found)
    return {name: _filled(path, f" of {name!r}", array) for name, array in _only_arrays(path, found).items()}


def open_arrays(path: Path) -> dict[str, AnyArray] | AnyArray:
    """As :func:`load_arrays`, but arrays of :data:`LARGE` bytes and more are left in the file."""
    found = open_members(path, LARGE, _WHAT, _SAMPLES)
    if not isinstance(found, dict):
        return _filled(path, "", found)
    return {name: _filled(path, f" of {name!r}", array) for name, array in _only_arrays(path, found).items()}


def _only_arrays(path: Path, members: Mapping[str, Array | bytes]) -> dict[str, Array]:
    """Raises PackageError where one is none."""
    arrays = {name: array for name, array in members.items() if not isinstance(array, bytes)}
    for name in members.keys() - arrays.keys():
        raise unreadable(path, ValueError(f"its member {name!r} is no array"), _WHAT)
    return arrays


def _filled(path: Path, which: str, array: Array) -> Array:
    """``array`` itself. Raises EvaluationError where it has no elements."""
    if not array.size:
        raise EvaluationError(f"{path} holds no sample{which}: its shape is {list(array.shape)}")
    return array
