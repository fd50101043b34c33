"""Files that are kept between runs: ``.npz`` archives of arrays and a JSON header, checked before an array is made.

The header holds a digest of everything in the file. Members are read only where their sizes agree with the file's own
and with what their ``.npy`` headers say, so that a file cannot claim more than it has; nothing in it is executed.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]
_HEADER = "header"


class DamagedError(Exception):
    """A kept file is not as it was written; the text says what is wrong."""


def packed_file(header: dict[str, Any], arrays: Arrays) -> bytes:
    """The bytes of a file."""
    sealed = json.dumps({**header, "digest": _digest(header, arrays)}).encode()
    file = io.BytesIO()
    np.savez(file, header=np.frombuffer(sealed, np.uint8), **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def read_kept(path: Path) -> tuple[dict[str, Any], Arrays] | None:
    """The header and the arrays of a file; None where there is none. Raises DamagedError."""
    try:
        if not path.is_file():  # opening a named pipe would wait for a writer
            return None
        with zipfile.ZipFile(path) as archive:
            arrays = {info.filename.removesuffix(".npy"): _member(archive, info) for info in archive.infolist()}
        header = json.loads(arrays.pop(_HEADER).tobytes())
        digest = header.pop("digest")
        if digest != _digest(header, arrays):
            raise DamagedError("its content has another digest than it was kept with")
        return header, arrays
    except FileNotFoundError:
        return None
    except DamagedError:
        raise
    except Exception as error:  # zipfile, struct, zlib and json raise many kinds
        raise DamagedError(f"it cannot be read ({type(error).__name__})") from error


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """One array. Nothing is compressed, so that a member takes no more memory than it does of the file."""
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise DamagedError(f"{info.filename} is compressed")
    stored = archive.read(info)  # whose checksum is looked at
    file = io.BytesIO(stored)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    count = 1
    for size in shape:
        count *= size
    if dtype.hasobject or fortran or min(shape, default=0) < 0 or count * dtype.itemsize != len(stored) - file.tell():
        raise DamagedError(f"{info.filename} is not the {dtype}{list(shape)} that its header says")
    return np.frombuffer(stored, dtype, offset=file.tell()).reshape(shape)


def _digest(header: dict[str, Any], arrays: Arrays) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape};".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
