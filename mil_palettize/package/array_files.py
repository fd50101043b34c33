"""``.npz`` and ``.npy`` files of arrays that people give: read, and damaged ones told in one line."""

from __future__ import annotations

import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from mil_palettize.errors import PackageError
from mil_palettize.package.links import refuse_pointer
from mil_palettize.package.stored_arrays import StoredArray, stored_file, stored_member

_SINGLE, _ARCHIVE = b"\x93NUMPY", b"PK"
_MOST_PACKED = 1100  # no more bytes come of one that is deflated
_KINDS = {
    b"\x89PNG": "is a PNG picture",
    b"\xff\xd8\xff": "is a JPEG picture",
    b"\x80": "is a Python pickle",
    b"\x1f\x8b": "is a gzip file",
}
# What zipfile and numpy raise for files that are damaged, encrypted or of unknown compression (both RuntimeError), or
# that say sizes no memory has (OverflowError, MemoryError).
_UNREADABLE = (
    OSError, ValueError, EOFError, RuntimeError, OverflowError, MemoryError, zipfile.BadZipFile, zlib.error,
    lzma.LZMAError, struct.error, tokenize.TokenError,
)  # fmt: skip


def read_members(path: Path, what: str, advice: str) -> np.ndarray | dict[str, np.ndarray | bytes]:
    """The array of a ``.npy`` file, or what a ``.npz`` file holds by name: arrays, and bytes of members that are none.
    Nothing in it is executed.

    Raises PackageError for a file that cannot be read, where ``what`` it must be ends the line, and for one that is
    another thing, where ``advice`` does.
    """
    with _sound(path, what, advice):
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found as archive:
            return {name: archive[name] for name in archive.files}


def open_members(
    path: Path, least: int, what: str, advice: str
) -> np.ndarray | StoredArray | dict[str, np.ndarray | bytes | StoredArray]:
    """As :func:`read_members`, but arrays that take ``least`` bytes and more are left in the file."""
    with _sound(path, what, advice) as packed:
        if not packed:
            stored = stored_file(path) if path.stat().st_size >= least else None
            return np.load(path, allow_pickle=False) if stored is None else stored
        with np.load(path, allow_pickle=False) as archive:
            large = {info.filename: info for info in archive.zip.infolist() if info.file_size >= least}
            return {name: _opened(path, archive, name, large.get(f"{name}.npy")) for name in archive.files}


def _opened(path: Path, archive: Any, name: str, large: zipfile.ZipInfo | None) -> np.ndarray | bytes | StoredArray:
    stored = None if large is None else stored_member(path, archive.zip, large)
    return archive[name] if stored is None else stored


@contextmanager
def _sound(path: Path, what: str, advice: str) -> Iterator[bool]:
    """Where a file of arrays is read, whose sizes are looked at before; gives whether it is a ``.npz`` file."""
    refuse_pointer(path)
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except (OSError, ValueError) as error:  # the latter of a path with a NUL
        raise unreadable(path, error, what) from error
    if not start.startswith((_SINGLE, _ARCHIVE)):
        raise PackageError(f"{path} {_kind(start)}, and is no .npz file; {advice}")
    try:
        packed = start.startswith(_ARCHIVE)
        _check_sizes(path, packed=packed)
        yield packed
    except _UNREADABLE as error:
        raise unreadable(path, error, what) from error


def _check_sizes(path: Path, *, packed: bool) -> None:
    """Raise ValueError for arrays that say they are larger than what is stored, or than packing makes of that: no
    memory is asked for on their word."""
    if not packed:
        with path.open("rb") as file:
            _check_header(file, path.stat().st_size)
        return
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        if sum(info.compress_size for info in infos) > path.stat().st_size:
            raise ValueError("its members lie over each other")
        for info in infos:
            if info.file_size > info.compress_size * _MOST_PACKED + _MOST_PACKED:
                raise ValueError(f"its member {info.filename!r} is packed {_MOST_PACKED}-fold and more")
            with archive.open(info) as member:
                _check_header(member, info.file_size)


def _check_header(file: IO[bytes], nbytes: int) -> None:
    """What is no array is not judged here."""
    if file.read(len(_SINGLE)) != _SINGLE:
        return
    version = file.read(2)
    read = np.lib.format.read_array_header_1_0 if version[:1] == b"\1" else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if min(shape, default=0) < 0 or (math.prod(shape) * dtype.itemsize > nbytes and not dtype.hasobject):
        raise ValueError(f"its header says {dtype}{list(shape)[:8]}, and {nbytes} bytes are there")


def unreadable(path: Path, error: Exception, what: str) -> PackageError:
    """The line that says so; ``what`` it must be ends it."""
    told = " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())
    return PackageError(f"cannot read {path}: {told}; it must be {what}")


def _kind(start: bytes) -> str:
    """What a file that begins with these bytes is, in words."""
    known = [kind for magic, kind in _KINDS.items() if start.startswith(magic)]
    if known or not start:
        return known[0] if known else "is empty"
    return "is text" if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start) else "is another file"
