"""What a weight is stored as: a small sum type that decodes back to the dense array (numpy only).

``Const`` holds the array itself, ``Lut`` indices into look-up tables. Formats:
``constexpr_lut_to_dense`` of coremltools ``ops/defs/iOS16/constexpr_ops.py`` and ``iOS18/compression.py``.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np

LEGAL_NBITS = (1, 2, 3, 4, 6, 8)


@dataclass(frozen=True)
class Packed:
    """Unsigned integers of ``nbits`` each, packed without gaps, least significant bit first.

    ``data``: uint8 of ``ceil(count * nbits / 8)`` bytes, unused high bits zero. ``shape``: of the unpacked array.
    Both forms of ``constexpr_lut_to_dense`` store indices as exactly these bytes.
    """

    data: np.ndarray
    nbits: int
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.nbits not in LEGAL_NBITS:
            raise ValueError(f"nbits is {self.nbits}; a palette has one of {LEGAL_NBITS}")
        if self.data.dtype != np.uint8 or self.data.shape != (packed_nbytes(self.count, self.nbits),):
            raise ValueError(
                f"packed indices are {self.data.dtype}{list(self.data.shape)}; {self.count} values of "
                f"{self.nbits} bits need uint8[{packed_nbytes(self.count, self.nbits)}]"
            )

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def padding_bits(self) -> int:
        """Unused bits of the last byte."""
        return self.data.size * 8 - self.count * self.nbits

    def unpack(self) -> np.ndarray:
        """uint8 array of ``shape``."""
        if self.nbits == 8:
            return self.data.reshape(self.shape)
        bits = np.unpackbits(self.data, bitorder="little", count=self.count * self.nbits)
        padded = np.zeros((self.count, 8), np.uint8)
        padded[:, : self.nbits] = bits.reshape(self.count, self.nbits)
        return np.packbits(padded, axis=1, bitorder="little").reshape(self.shape)

    @classmethod
    def pack(cls, indices: np.ndarray, nbits: int) -> Packed:
        """Pack a uint8 array, every element below ``2**nbits``."""
        flat = np.ascontiguousarray(indices, dtype=np.uint8).reshape(-1)
        if nbits != 8:
            bits = np.unpackbits(flat[:, None], axis=1, bitorder="little", count=nbits)
            flat = np.packbits(bits.reshape(-1), bitorder="little")
        return cls(flat, nbits, indices.shape)


def packed_nbytes(count: int, nbits: int) -> int:
    """Bytes of ``count`` packed values of ``nbits`` bits."""
    return (count * nbits + 7) // 8


@dataclass(frozen=True)
class Const:
    """The dense array itself."""

    array: np.ndarray

    def decode(self) -> np.ndarray:
        return self.array

    @property
    def nbytes(self) -> int:
        return self.array.nbytes


@dataclass(frozen=True)
class Lut:
    """Indices into look-up tables.

    ``lut``: shape ``(*groups, 2**nbits, 1)``, of the weight's dtype; ``groups[i]`` divides
    ``indices.shape[i]``, and element ``x`` of axis ``i`` uses table ``x // (indices.shape[i] // groups[i])``.
    """

    indices: Packed
    lut: np.ndarray

    def __post_init__(self) -> None:
        rank = len(self.indices.shape)
        if self.lut.ndim != rank + 2 or self.lut.shape[-2:] != (1 << self.indices.nbits, 1):
            raise ValueError(
                f"lut has shape {self.lut.shape}; {rank} axes of indices at {self.indices.nbits} bits need "
                f"(*groups, {1 << self.indices.nbits}, 1) of rank {rank + 2}"
            )
        for axis, (groups, size) in enumerate(zip(self.groups, self.indices.shape, strict=True)):
            if groups == 0 or size % groups:
                raise ValueError(f"{groups} groups do not divide the {size} elements of axis {axis}")

    @property
    def groups(self) -> tuple[int, ...]:
        return self.lut.shape[:-2]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.indices.shape

    @property
    def nbytes(self) -> int:
        """Bytes of indices and tables, without blob metadata."""
        return self.indices.data.size + self.lut.nbytes

    @property
    def digest(self) -> str:
        """SHA-256 of what is stored: shapes, indices, tables."""
        told = f"{self.indices.nbits} {self.shape} {self.lut.dtype} {self.lut.shape}"
        digest = hashlib.sha256(told.encode())
        digest.update(np.ascontiguousarray(self.indices.data).data)
        digest.update(np.ascontiguousarray(self.lut).reshape(-1).view(np.uint8).data)
        return digest.hexdigest()

    def decode(self) -> np.ndarray:
        """The dense array, of ``lut.dtype``."""
        indices = self.indices.unpack()
        if self.lut.size == self.lut.shape[-2]:
            return self.lut.reshape(-1)[indices]
        table = np.zeros((1,) * indices.ndim, np.int64)
        for axis, (groups, size) in enumerate(zip(self.groups, indices.shape, strict=True)):
            position = np.arange(size) // (size // groups)
            table = table * groups + position.reshape([-1 if i == axis else 1 for i in range(indices.ndim)])
        flat = self.lut.reshape(-1, self.lut.shape[-2])
        return flat[table, indices]


WeightExpr = Const | Lut
