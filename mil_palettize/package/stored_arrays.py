"""Large arrays in files, of which only the rows that are asked for are read."""

from __future__ import annotations

import os
import shutil
import struct
import threading
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, overload

import numpy as np

_AT_ONCE = 1 << 20  # bytes
_LOCAL_HEADER, _LOCAL_LENGTHS = 30, 26  # of a member in a zip file: its size, and where those of name and extras are


@dataclass(frozen=True)
class StoredArray(Sequence[np.ndarray]):
    """Its rows along the first axis, read from ``file``, where they begin at ``offset`` in bytes; ``stamp``: of the
    file when it was opened."""

    file: IO[bytes]
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype
    stamp: tuple[int, int]
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...

    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        """A row. Raises OSError where the file is no longer what it was."""
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        nbytes = prod(self.shape[1:]) * self.dtype.itemsize
        return self._read(range(len(self))[index] * nbytes, nbytes).reshape(self.shape[1:])

    def whole(self) -> np.ndarray:
        """All rows. Raises OSError as a row does."""
        return self._read(0, self.size * self.dtype.itemsize).reshape(self.shape)

    def _read(self, start: int, nbytes: int) -> np.ndarray:
        with self._lock:
            self.file.seek(self.offset + start)
            found = bytearray(self.file.read(nbytes))
        if len(found) < nbytes or _stamp(self.file) != self.stamp:
            raise OSError("it has changed")
        return np.frombuffer(found, self.dtype)


def stored_file(path: Path) -> StoredArray | None:
    """Of a ``.npy`` file; None where it does not lie row after row, or is not of numbers. Raises what numpy does."""
    return _stored(path.open("rb"))


def stored_member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> StoredArray | None:
    """As :func:`stored_file`, of a member of the ``.npz`` file at ``path``. It is read once, whether it is sound; one
    that is packed is unpacked to a temporary file. Raises what zipfile and numpy do."""
    with archive.open(member) as data:
        if member.compress_type != zipfile.ZIP_STORED:
            file = TemporaryFile()  # noqa: SIM115 - which lives as long as the array
            shutil.copyfileobj(data, file, _AT_ONCE)
            file.flush()
            file.seek(0)
            return _stored(file)
        while data.read(_AT_ONCE):
            pass
    plain = path.open("rb")
    plain.seek(member.header_offset + _LOCAL_LENGTHS)
    lengths = struct.unpack("<HH", plain.read(4))
    plain.seek(member.header_offset + _LOCAL_HEADER + sum(lengths))
    return _stored(plain)


def _stored(file: IO[bytes]) -> StoredArray | None:
    """Of an array whose header ``file`` is before."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = read(file)
    except BaseException:
        file.close()
        raise
    if by_columns or dtype.hasobject or not shape or not prod(shape):
        file.close()
        return None
    return StoredArray(file, file.tell(), shape, dtype, _stamp(file))


def _stamp(file: IO[bytes]) -> tuple[int, int]:
    """Size and time of the last change."""
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns
