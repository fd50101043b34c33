"""``.npz`` and ``.npy`` files: arrays by name or a single one, and what is wrong with a file that holds none."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mil_palettize.errors import EvaluationError
from mil_palettize.package.array_files import read_members, unreadable
from mil_palettize.package.links import refuse_pointer

Arrays = dict[str, np.ndarray]
_ADVICE = "save arrays by input names with numpy.savez, or give a .npy file, a folder of images, or FILE.py:NAME"
_WHAT = "a .npz or .npy file of plain arrays"
_SINGLE = b"\x93NUMPY"
_KINDS = {
    b"\x89PNG": "is a PNG picture",
    b"\xff\xd8\xff": "is a JPEG picture",
    b"\x80": "is a Python pickle",
    b"\x1f\x8b": "is a gzip file",
}


def load_arrays(path: Path) -> Arrays | np.ndarray:
    """The arrays of a ``.npz`` file by name, or the one of a ``.npy`` file; each holds at least one element.

    Raises PackageError for a file that cannot be read, EvaluationError for one that is another thing, or whose arrays
    are empty.
    """
    refuse_pointer(path)
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except (OSError, ValueError) as error:  # the latter of a path with a NUL
        raise unreadable(path, error, _WHAT) from error
    if not start.startswith((_SINGLE, b"PK")):
        raise EvaluationError(f"{path} {_kind(start)}, and is no .npz file; {_ADVICE}")
    found = read_members(path, _WHAT)
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


def _kind(start: bytes) -> str:
    """What a file that begins with these bytes is, in words."""
    known = [kind for magic, kind in _KINDS.items() if start.startswith(magic)]
    if known or not start:
        return known[0] if known else "is empty"
    return "is text" if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start) else "is another file"
