"""``.npz`` and ``.npy`` files: arrays by name or a single one, and what is wrong with a file that holds none."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mil_palettize.errors import EvaluationError
from mil_palettize.package.array_files import read_members, unreadable

Arrays = dict[str, np.ndarray]
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
    arrays = {name: array for name, array in found.items() if isinstance(array, np.ndarray)}
    for name in found.keys() - arrays.keys():
        raise unreadable(path, ValueError(f"its member {name!r} is no array"), _WHAT)
    return {name: _filled(path, f" of {name!r}", array) for name, array in arrays.items()}


def _filled(path: Path, which: str, array: np.ndarray) -> np.ndarray:
    """``array`` itself. Raises EvaluationError where it has no elements."""
    if not array.size:
        raise EvaluationError(f"{path} holds no sample{which}: its shape is {list(array.shape)}")
    return array
