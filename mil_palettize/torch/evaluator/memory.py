"""Memory that a program asks for: a few numbers in a package can stand for more than any machine has."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from math import prod
from pathlib import Path

import torch

from mil_palettize.text import format_bytes

SHARE = 0.5  # of the memory that is free, for one tensor (for all constants together)
_ALWAYS = 1 << 26  # bytes nobody is asked for: finding out what is free takes longer than an op
_UNKNOWN = 1 << 33  # taken to be free where the system does not tell
_MEMINFO = Path("/proc/meminfo")
_copies: ContextVar[int] = ContextVar("copies", default=1)


def claim(shape: Iterable[int], dtype: torch.dtype = torch.float32) -> None:
    """Before a tensor of this shape is made. Raises MemoryError where it would take more than :data:`SHARE` of what is
    free: systems hand out memory that they do not have, and end the process when it is used."""
    claim_bytes(prod(max(0, size) for size in shape) * dtype.itemsize)


def claim_bytes(nbytes: int) -> None:
    """As :func:`claim`."""
    if nbytes * _copies.get() <= _ALWAYS:
        return
    nbytes *= _copies.get()
    free = free_bytes()
    if nbytes > SHARE * free:
        raise MemoryError(
            f"{format_bytes(nbytes)} are asked for, more than {SHARE:.0%} of the {format_bytes(free)} of memory free"
        )


@contextmanager
def copies(count: int) -> Iterator[None]:
    """What is claimed in the block is made so many times: a program is mapped over samples."""
    token = _copies.set(count)
    try:
        yield
    finally:
        _copies.reset(token)


def claim_broadcast(*tensors: torch.Tensor) -> None:
    """Before an op of tensors that are stretched to one shape."""
    dtype = tensors[-1].dtype
    if prod(tensor.numel() for tensor in tensors) * dtype.itemsize > _ALWAYS:  # else no shape makes it large
        claim(broadcast_sizes(*(tensor.shape for tensor in tensors)), dtype)


def broadcast_sizes(*shapes: Sequence[int]) -> list[int]:
    """The sizes of tensors of these shapes together; whether they fit is the op's to say."""
    rank = max(map(len, shapes))
    return [max(sizes) for sizes in zip(*([1] * (rank - len(shape)) + list(shape) for shape in shapes), strict=True)]


def one_line(error: BaseException) -> str:
    """What went wrong, without the stack that torch appends to it."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines and lines[0] else type(error).__name__


def free_bytes() -> int:
    """Memory that can be had without swapping; all of the machine's where the system tells no more."""
    if sys.platform == "linux":
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return _UNKNOWN
