"""What a weight is stored as: a small sum type that decodes back to the dense array (numpy only).

``Const`` holds the array itself, ``Lut`` indices into look-up tables, ``Scale`` quantized values with their scales,
``Sparse`` only the values that are not zero, ``Cast`` values of another type; all but ``Const`` nest. Formats:
``constexpr_*`` of coremltools ``ops/defs/iOS16/constexpr_ops.py`` and ``iOS18/compression.py``, whose
``materialized_val_inference`` every ``decode`` equals bit for bit.

Each has the ``shape`` and ``dtype`` of the dense array, and ``nbytes`` of all its parts. ``stored_shape`` is that of
the elements it stores, which differs from ``shape`` where one index stands for a vector. ``stored_nbytes(count)`` is
what it takes when only ``count`` of these are stored, as inside a :class:`Sparse`; tables and scales are in full.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from mil_palettize.expressions.packed import CHUNK, Packed, packed_nbytes


@dataclass(frozen=True)
class Const:
    """The dense array itself; types smaller than a byte are packed."""

    array: np.ndarray | Packed

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def stored_shape(self) -> tuple[int, ...]:
        return self.shape

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    def decode(self) -> np.ndarray:
        return self.array.unpack() if isinstance(self.array, Packed) else self.array

    def stored_nbytes(self, count: int) -> int:
        bits = self.array.nbits if isinstance(self.array, Packed) else self.array.dtype.itemsize * 8
        return packed_nbytes(count, bits)

    @property
    def nbytes(self) -> int:
        return self.array.nbytes


@dataclass(frozen=True)
class Lut:
    """Indices into look-up tables.

    ``lut``: shape ``(*groups, 2**nbits, vector)``, of the weight's dtype; ``groups[i]`` divides
    ``indices.shape[i]``, and element ``x`` of axis ``i`` uses table ``x // (indices.shape[i] // groups[i])``. It may
    be compressed itself: a :class:`Scale` for quantized entries.
    With ``vector`` above 1 every index stands for that many consecutive elements along ``vector_axis``
    (0 to rank - 1; None for scalars), along which the weight is ``vector`` times as long as the indices.
    """

    indices: Packed
    lut: Part
    vector_axis: int | None = None

    def __post_init__(self) -> None:
        rank = len(self.indices.shape)
        lut_shape = self.lut.shape
        if self.indices.signed:
            raise ValueError("indices into a look-up table are signed")
        if len(lut_shape) != rank + 2 or lut_shape[-2] != 1 << self.indices.nbits or self.vector < 1:
            raise ValueError(
                f"lut has shape {lut_shape}; {rank} axes of indices at {self.indices.nbits} bits need "
                f"(*groups, {1 << self.indices.nbits}, vector) of rank {rank + 2}"
            )
        for axis, (groups, size) in enumerate(zip(self.groups, self.indices.shape, strict=True)):
            if groups == 0 or size % groups:
                raise ValueError(f"{groups} groups do not divide the {size} elements of axis {axis}")
        if (self.vector_axis is None) != (self.vector == 1):
            raise ValueError(f"vectors of {self.vector} with vector_axis {self.vector_axis}")
        if self.vector_axis is not None and not 0 <= self.vector_axis < rank:
            raise ValueError(f"vector_axis {self.vector_axis} is none of {rank} axes")

    @property
    def table(self) -> np.ndarray:
        """``lut`` as an array."""
        return _array(self.lut)

    @property
    def groups(self) -> tuple[int, ...]:
        return self.lut.shape[:-2]

    @property
    def vector(self) -> int:
        """Elements an index stands for."""
        return int(self.lut.shape[-1])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the dense array."""
        return tuple(
            size * self.vector if axis == self.vector_axis else size for axis, size in enumerate(self.indices.shape)
        )

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Of the indices."""
        return self.indices.shape

    @property
    def dtype(self) -> np.dtype:
        return self.lut.dtype

    def stored_nbytes(self, count: int) -> int:
        """Bytes with only ``count`` indices stored."""
        return packed_nbytes(count, self.indices.nbits) + self.lut.nbytes

    @property
    def nbytes(self) -> int:
        """Bytes of indices and tables, without blob metadata."""
        return self.indices.nbytes + self.lut.nbytes

    def decode(self) -> np.ndarray:
        """The dense array, of the tables' dtype."""
        indices, lut = self.indices.unpack(), self.table
        if lut.size == lut.shape[-2]:
            entries, flat = lut.reshape(-1), indices.reshape(-1)
            dense = np.empty(flat.size, lut.dtype)
            for start in range(0, flat.size, CHUNK):  # in pieces: looking up makes an int64 copy of the indices
                dense[start : start + CHUNK] = entries[flat[start : start + CHUNK]]
            return dense.reshape(indices.shape)
        table = np.zeros((1,) * indices.ndim, np.int64)
        for axis, (groups, size) in enumerate(zip(self.groups, indices.shape, strict=True)):
            if groups > 1:
                position = np.arange(size) // (size // groups)
                table = table * groups + position.reshape([-1 if i == axis else 1 for i in range(indices.ndim)])
        tables = lut.reshape(-1, *lut.shape[-2:])
        found = np.empty((*indices.shape, self.vector), lut.dtype)
        rows = max(1, CHUNK // max(1, indices[:1].size))
        for start in range(0, len(indices), rows):
            chosen = table if len(table) == 1 else table[start : start + rows]
            found[start : start + rows] = tables[chosen, indices[start : start + rows]]
        if self.vector_axis is None:
            return found[..., 0]
        return np.moveaxis(found, -1, self.vector_axis + 1).reshape(self.shape)


@dataclass(frozen=True)
class Scale:
    """``(data - offset) * scale``.

    ``scale`` (floats, which give the dtype) and ``offset`` have the rank of ``data``; each of their sizes divides
    that of ``data``, and an element of theirs holds for a block. ``affine``: computed in fp32 and rounded once to
    the scale's dtype, as ``constexpr_affine_dequantize`` does; otherwise each step in the scale's dtype, as
    ``constexpr_blockwise_shift_scale`` does (in fp32 when the offset is fp32).
    """

    data: WeightExpr
    scale: Part
    offset: Part | None = None
    affine: bool = False

    def __post_init__(self) -> None:
        if self.scale.dtype.kind != "f":
            raise ValueError(f"scale is {self.scale.dtype}, not a float")
        for name, part in (("scale", self.scale), ("offset", self.offset)):
            if part is None:
                continue
            fits = len(part.shape) == len(self.data.shape)
            if not fits or any(n < 1 or size % n for n, size in zip(part.shape, self.data.shape, strict=True)):
                raise ValueError(f"{name} of shape {part.shape} does not divide data of shape {self.data.shape}")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def stored_shape(self) -> tuple[int, ...]:
        return self.data.stored_shape

    @property
    def dtype(self) -> np.dtype:
        return self.scale.dtype

    def stored_nbytes(self, count: int) -> int:
        return self.data.stored_nbytes(count) + self._parts_nbytes

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return self.data.nbytes + self._parts_nbytes

    @property
    def _parts_nbytes(self) -> int:
        return self.scale.nbytes + (0 if self.offset is None else self.offset.nbytes)

    def decode(self) -> np.ndarray:
        """The dense array, of the scale's dtype. Overflow gives infinities, as in coremltools."""
        scale = _array(self.scale)
        offset = None if self.offset is None else _array(self.offset)
        step = np.dtype(np.float32) if self.affine else np.result_type(scale, *([] if offset is None else [offset]))
        with np.errstate(all="ignore"):
            # coremltools rounds data to the scale's dtype before it computes. That changes fp32 data only: integers of
            # up to 8 bits and fp16 are exact in either dtype.
            data = np.array(self.data.decode(), step if self.affine else scale.dtype, order="C")
            data = data.astype(step, copy=False)
            if offset is not None:
                blocks, spread = _blocks(data, offset)
                blocks -= spread.astype(step)
            blocks, spread = _blocks(data, scale)
            blocks *= spread.astype(step)
            return data.astype(scale.dtype, copy=False)


@dataclass(frozen=True)
class Sparse:
    """Zeros but for the values where ``mask`` (1 bit each) is set.

    ``data`` either holds those values alone, 1-D in C order, or has the mask's shape, and what it decodes to where the
    mask is not set is ignored. The second is for tables and scales that differ by position: only in place can it be
    told which of them a value uses. Over a palette of vectors the mask has a bit for each index, not for each element.
    """

    data: WeightExpr
    mask: Packed

    def __post_init__(self) -> None:
        if self.mask.nbits != 1:
            raise ValueError(f"a mask of {self.mask.nbits} bits")
        if not self._in_place and self.data.shape != (self.count,):
            raise ValueError(
                f"the mask sets {self.count} of {list(self.mask.shape)} values, but there are {list(self.data.shape)}"
            )

    @property
    def _in_place(self) -> bool:
        return self.data.stored_shape == self.mask.shape

    @property
    def count(self) -> int:
        """Values (of a palette: indices) that are stored."""
        return self.mask.ones()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape if self._in_place else self.mask.shape

    @property
    def stored_shape(self) -> tuple[int, ...]:
        return self.shape

    @property
    def dtype(self) -> np.dtype:
        return self.data.dtype

    def stored_nbytes(self, count: int) -> int:
        return self.nbytes

    @property
    def nbytes(self) -> int:
        """Bytes of the mask and of what is stored of the data."""
        return self.mask.nbytes + (self.data.stored_nbytes(self.count) if self._in_place else self.data.nbytes)

    def dense_mask(self) -> np.ndarray:
        """bool, of the dense array's shape."""
        mask = self.mask.unpack().view(bool)
        for axis, (size, dense) in enumerate(zip(mask.shape, self.shape, strict=True)):
            if dense != size:
                mask = np.repeat(mask, dense // size, axis=axis)
        return mask

    def nonzeros(self) -> np.ndarray:
        """The values alone, 1-D in C order."""
        return self.data.decode()[self.dense_mask()] if self._in_place else self.data.decode()

    def decode(self) -> np.ndarray:
        """The dense array, of the data's dtype."""
        dense = np.zeros(self.shape, self.dtype)
        dense[self.dense_mask()] = self.nonzeros()
        return dense


@dataclass(frozen=True)
class Cast:
    """``data`` as another dtype (fp16 stored for fp32)."""

    data: WeightExpr
    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def stored_shape(self) -> tuple[int, ...]:
        return self.data.stored_shape

    def stored_nbytes(self, count: int) -> int:
        return self.data.stored_nbytes(count)

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    def decode(self) -> np.ndarray:
        with np.errstate(all="ignore"):
            return self.data.decode().astype(self.dtype)


WeightExpr: TypeAlias = Const | Lut | Scale | Sparse | Cast
Part: TypeAlias = np.ndarray | WeightExpr


def lut_of(expr: WeightExpr) -> Lut:
    """The look-up table inside a palette's expression. Raises TypeError where there is none."""
    while isinstance(expr, (Scale, Sparse)):
        expr = expr.data
    if not isinstance(expr, Lut):
        raise TypeError(f"{type(expr).__name__} has no look-up table")
    return expr


def _array(part: Part) -> np.ndarray:
    return part if isinstance(part, np.ndarray) else part.decode()


def _blocks(data: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Views of both that broadcast: an element of ``table`` against its block of ``data`` (C order)."""
    inside: list[int] = []
    for size, count in zip(data.shape, table.shape, strict=True):
        inside += [count, size // count]
    return data.reshape(inside), table.reshape([n for count in table.shape for n in (count, 1)])
