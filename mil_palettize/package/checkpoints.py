"""Checkpoints of torch models that can be read without torch: ``.safetensors`` and ``.npz``."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mil_palettize.errors import PackageError
from mil_palettize.package.array_files import read_members, unreadable
from mil_palettize.package.links import refuse_pointer

_WHAT = "a .safetensors file, a folder of them, a .npz file, or what torch.save wrote of a state_dict"
_LONGEST = 100_000_000  # bytes of a header, as the format has it
_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}

Tensors = Mapping[str, Callable[[], np.ndarray]]  # by name: what reads each


def needs_torch(path: Path) -> bool:
    """Whether torch wrote it, as far as names tell."""
    return path.suffix.lower() in (".pt", ".pth", ".bin", ".ckpt")


def read_checkpoint(path: Path) -> Tensors:
    """The tensors of floats in ``path``, each read when it is called for. Of a folder, those of all ``.safetensors``
    files in it. The format: https://github.com/huggingface/safetensors#format.

    Raises PackageError for what is none, and for damaged files.
    """
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        if not files:
            raise PackageError(f"{path} holds no .safetensors file; a checkpoint is {_WHAT}")
        return {name: read for file in files for name, read in _safetensors(file)}
    if path.suffix.lower() == ".safetensors":
        return dict(_safetensors(path))
    found = read_members(path, _WHAT, f"a checkpoint is {_WHAT}")
    if isinstance(found, np.ndarray):
        raise PackageError(f"{path} holds one array without a name; a checkpoint is {_WHAT}")
    return {name: _given(array) for name, array in found.items() if isinstance(array, np.ndarray)}


def _given(array: np.ndarray) -> Callable[[], np.ndarray]:
    return lambda: array


@dataclass(frozen=True)
class _Stored:
    """A tensor in a file: where its bytes begin."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int

    def __call__(self) -> np.ndarray:
        count = math.prod(self.shape)
        array = np.fromfile(self.path, np.dtype(_FLOATS[self.dtype]), count, offset=self.begin)
        if array.size != count:
            raise unreadable(self.path, ValueError("it is shorter than its header says"), _WHAT)
        if self.dtype == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        return array.reshape(self.shape)


def _safetensors(path: Path) -> Iterator[tuple[str, _Stored]]:
    refuse_pointer(path)
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(_LONGEST, path.stat().st_size):
                raise ValueError(f"its header would have {length} bytes")
            header = json.loads(file.read(length))
        found = [(name, _entry(path, 8 + length, entry)) for name, entry in header.items() if name != "__metadata__"]
    except (
        OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, struct.error
    ) as error:  # fmt: skip
        raise unreadable(path, error, _WHAT) from error
    yield from ((name, stored) for name, stored in found if stored.dtype in _FLOATS)


def _entry(path: Path, data: int, entry: Mapping[str, Any]) -> _Stored:
    """Raises ValueError, TypeError, KeyError or OverflowError for one that is none."""
    shape, (begin, end) = tuple(map(int, entry["shape"])), map(int, entry["data_offsets"])
    dtype = str(entry["dtype"])
    if min(shape, default=0) < 0 or begin < 0 or end + data > path.stat().st_size:
        raise ValueError("its header names bytes outside the file")
    if dtype in _FLOATS and math.prod(shape) * np.dtype(_FLOATS[dtype]).itemsize != end - begin:
        raise ValueError(f"its header gives {dtype}{list(shape)[:8]} {end - begin} bytes")
    return _Stored(path, dtype, shape, data + begin)
