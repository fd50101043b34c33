"""``.npz`` and ``.npy`` files: arrays by name or a single one, and what is wrong with a file that holds none."""

from __future__ import annotations

import lzma
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from mil_palettize.errors import EvaluationError, PackageError
from mil_palettize.package.links import refuse_pointer

Arrays = dict[str, np.ndarray]
# What zipfile and numpy raise for files that are damaged, encrypted (RuntimeError) or of unknown compression.
_UNREADABLE = (
    OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, tokenize.TokenError,
)  # fmt: skip
_ADVICE = "save arrays by input names with numpy.savez, or give a .npy file, a folder of images, or FILE.py:NAME"
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
        if start.startswith(_SINGLE):
            return _filled(path, "", np.load(path, allow_pickle=False))
        if not start.startswith(b"PK"):
            raise EvaluationError(f"{path} {_kind(start)}, and is no .npz file; {_ADVICE}")
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: _member(archive, name) for name in archive.files}
    except EvaluationError:
        raise
    except _UNREADABLE as error:
        told = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise PackageError(f"cannot read {path}: {told}; it must be a .npz or .npy file of plain arrays") from error
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


def _member(archive: Any, name: str) -> np.ndarray:
    """Raises ValueError for a member that is no array, which numpy gives as bytes."""
    array = archive[name]
    if not isinstance(array, np.ndarray):
        raise ValueError(f"its member {name!r} is no array")
    return array
