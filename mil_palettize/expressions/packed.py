"""Integers smaller than a byte, packed (numpy only)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mil_palettize.expressions.legal_nbits import LEGAL_NBITS

# Elements handled at a time where temporaries are several times larger; a multiple of 8.
CHUNK = 1 << 18
# Byte -> how many of its bits are set.
_POPCOUNT = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1)


@dataclass(frozen=True)
class Packed:
    """Integers of ``nbits`` each, packed without gaps, least significant bit first.

    ``data``: uint8 of ``ceil(count * nbits / 8)`` bytes, unused high bits zero. ``shape``: of the unpacked array.
    ``signed``: two's complement, of 4 bits only (int4). Both forms of ``constexpr_lut_to_dense`` store indices as
    exactly these bytes, both forms of ``constexpr_sparse_to_dense`` masks.
    """

    data: np.ndarray
    nbits: int
    shape: tuple[int, ...]
    signed: bool = False

    def __post_init__(self) -> None:
        if self.nbits not in LEGAL_NBITS:
            raise ValueError(f"nbits is {self.nbits}; a palette has one of {LEGAL_NBITS}")
        if not can_hold(self.shape):
            raise ValueError(f"a shape of {len(self.shape)} axes, {list(self.shape)[:8]}, cannot be held in memory")
        if self.signed and self.nbits != 4:
            raise ValueError(f"signed values of {self.nbits} bits; only int4 is packed")
        if self.data.dtype != np.uint8 or self.data.shape != (packed_nbytes(self.count, self.nbits),):
            raise ValueError(
                f"packed indices are {self.data.dtype}{list(self.data.shape)}; {self.count} values of "
                f"{self.nbits} bits need uint8[{packed_nbytes(self.count, self.nbits)}]"
            )

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def dtype(self) -> np.dtype:
        """Of the unpacked array."""
        return np.dtype(np.int8 if self.signed else np.uint8)

    @property
    def nbytes(self) -> int:
        return self.data.size

    def ones(self) -> int:
        """How many bits are set: of a mask (one bit each), how many values it keeps."""
        return int(np.bincount(self.data, minlength=256) @ _POPCOUNT)

    @property
    def padding_bits(self) -> int:
        """Unused bits of the last byte."""
        return self.data.size * 8 - self.count * self.nbits

    def unpack(self) -> np.ndarray:
        """uint8 array of ``shape``, int8 where signed."""
        if self.nbits == 8:
            return self.data.reshape(self.shape)
        values = np.empty(self.count, np.uint8)
        for start in range(0, self.count, CHUNK):
            part = values[start : start + CHUNK]
            window = self.data[start * self.nbits // 8 :][: packed_nbytes(part.size, self.nbits)]
            part[:] = _unpacked(window, self.nbits)[: part.size]
        if self.signed:
            values = ((values ^ 8).view(np.int8) - 8).astype(np.int8)
        return values.reshape(self.shape)

    @classmethod
    def pack(cls, values: np.ndarray, nbits: int, *, signed: bool = False) -> Packed:
        """Pack a uint8 array, every element below ``2**nbits``; with ``signed`` an int8 array."""
        flat = np.ascontiguousarray(values, dtype=np.int8 if signed else np.uint8).reshape(-1).view(np.uint8)
        if nbits != 8:
            chunks = [np.zeros(0, np.uint8)]
            for start in range(0, flat.size, CHUNK):
                part = flat[start : start + CHUNK, None]
                bits = np.unpackbits(part, axis=1, bitorder="little", count=nbits)
                chunks.append(np.packbits(bits.reshape(-1), bitorder="little"))
            flat = np.concatenate(chunks)
        return cls(flat, nbits, values.shape, signed)


def mask_of_vectors(mask: Packed, dim: int, axis: int) -> Packed:
    """A mask of elements (1 bit each) as one of vectors, ``dim`` consecutive elements along ``axis``: set where any
    element is. With ``dim`` 1 the mask itself."""
    if dim == 1:
        return mask
    split = [size for i, n in enumerate(mask.shape) for size in ((n // dim, dim) if i == axis else (n,))]
    return Packed.pack(mask.unpack().reshape(split).max(axis=axis + 1), 1)


def can_hold(shape: Sequence[int]) -> bool:
    """Whether numpy has arrays of ``shape``, of elements of up to 8 bytes: up to 64 axes, no size that wraps around."""
    return len(shape) <= 64 and min(shape, default=1) >= 0 and math.prod(n for n in shape if n) < 1 << 59


def _unpacked(data: np.ndarray, nbits: int) -> np.ndarray:
    """Values of ``nbits`` below 8, as many as there may be in ``data``, by groups of whole bytes: a value lies in one
    byte, or in one and the next."""
    width = math.lcm(nbits, 8) // 8
    groups = np.zeros((-(-data.size // width), width), np.uint8)
    groups.reshape(-1)[: data.size] = data
    found = np.empty((len(groups), width * 8 // nbits), np.uint8)
    for number in range(found.shape[1]):
        byte, shift = divmod(number * nbits, 8)
        values = groups[:, byte] >> shift
        if shift + nbits > 8:
            values |= groups[:, byte + 1] << (8 - shift)
        np.bitwise_and(values, (1 << nbits) - 1, out=found[:, number])
    return found.reshape(-1)


def packed_nbytes(count: int, nbits: int) -> int:
    """Bytes of ``count`` packed values of ``nbits`` bits."""
    return (count * nbits + 7) // 8
