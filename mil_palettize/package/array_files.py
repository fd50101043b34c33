"""``.npz`` and ``.npy`` files of arrays that people give: read whole, and damaged ones told in one line."""

from __future__ import annotations

import lzma
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from mil_palettize.errors import PackageError
from mil_palettize.package.links import refuse_pointer

# What zipfile and numpy raise for files that are damaged, encrypted or of unknown compression (both RuntimeError), or
# that say sizes no memory has (OverflowError).
_UNREADABLE = (
    OSError, ValueError, EOFError, RuntimeError, OverflowError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
    struct.error, tokenize.TokenError,
)  # fmt: skip


def read_members(path: Path, what: str) -> np.ndarray | dict[str, np.ndarray | bytes]:
    """The array of a ``.npy`` file, or what a ``.npz`` file holds by name: arrays, and bytes of members that are none.
    Nothing in it is executed.

    Raises PackageError for a file that cannot be read; ``what`` it must be ends the line.
    """
    refuse_pointer(path)
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found as archive:
            return {name: archive[name] for name in archive.files}
    except _UNREADABLE as error:
        raise unreadable(path, error, what) from error


def unreadable(path: Path, error: Exception, what: str) -> PackageError:
    """The line that says so; ``what`` it must be ends it."""
    told = " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())
    return PackageError(f"cannot read {path}: {told}; it must be {what}")
