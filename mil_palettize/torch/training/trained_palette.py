"""The palette that a weight of a torch model has become, and what it is stored as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mil_palettize.expressions.packed import Packed
from mil_palettize.expressions.weight_expr import Const, Lut, Scale, Sparse, WeightExpr, lut_of
from mil_palettize.torch.training.settings import WeightSettings

_BYTE_RANGES = {"int8": (-127.0, 127.0), "uint8": (0.0, 255.0)}


@dataclass(frozen=True)
class StoredTables:
    """Tables (groups, entries, dim) of numbers that float16 holds; or whole numbers with a ``scale``, and perhaps an
    ``offset``, of each (groups, 1, 1), where entries are of 8 bits."""

    tables: torch.Tensor
    scale: torch.Tensor | None = None
    offset: torch.Tensor | None = None

    @property
    def entries(self) -> torch.Tensor:
        """As they decode."""
        if self.scale is None:
            return self.tables
        return (self.tables - (0.0 if self.offset is None else self.offset)) * self.scale


@dataclass(frozen=True)
class TrainedPalette:
    """``indices``: int64 (groups, points). ``scale``: of each channel, of the weight's rank, or None. ``mask``: bool,
    of the weight's shape, where a pruned weight is not zero; None for others."""

    settings: WeightSettings
    shape: tuple[int, ...]
    stored: StoredTables
    indices: torch.Tensor
    scale: torch.Tensor | None
    mask: torch.Tensor | None = None

    @property
    def values(self) -> torch.Tensor:
        """Of the whole weight, float32; with scales the products as float32 has them."""
        found = [table[row] for table, row in zip(self.stored.entries, self.indices, strict=True)]
        values = self.settings.layout(self.shape).weight(torch.stack(found))
        values = values if self.scale is None else values * self.scale
        return values if self.mask is None else values * self.mask

    def expression(self, dtype: np.dtype) -> WeightExpr:
        """As it is stored, with floats of ``dtype``; of a weight that is not pruned."""
        assert self.mask is None
        layout = self.settings.layout(self.shape)
        indices = Packed.pack(_array(layout.indices(self.indices)), self.settings.nbits)
        table: Any = _array(layout.lut(self.stored.tables))
        if self.stored.scale is None:
            table = table.astype(dtype)
        else:
            scale, offset = _array(layout.lut(self.stored.scale)).astype(dtype), None
            if self.stored.offset is not None:
                offset = _array(layout.lut(self.stored.offset)).astype(self.settings.lut_dtype)
            table = Scale(Const(table.astype(self.settings.lut_dtype)), scale, offset)
        lut = Lut(indices, table, self.settings.axis if self.settings.cluster_dim > 1 else None)
        return lut if self.scale is None else Scale(lut, _array(self.scale).astype(dtype))

    @classmethod
    def of_expression(cls, settings: WeightSettings, expr: WeightExpr) -> TrainedPalette:
        """What the solver made by the same settings."""
        lut, mask, shape = lut_of(expr), None, expr.shape
        if isinstance(expr, Sparse):
            mask, expr = torch.from_numpy(expr.dense_mask()), expr.data
        layout = settings.layout(shape)
        sizes = (layout.groups, 1 << settings.nbits, settings.cluster_dim)
        if isinstance(lut.lut, Scale):
            parts = (lut.lut.data, lut.lut.scale, lut.lut.offset)
            tables, scale, offset = (None if part is None else _tensor(part) for part in parts)
            assert tables is not None
            assert scale is not None
            rows = (layout.groups, 1, 1)
            offset = None if offset is None else offset.reshape(rows)
            stored = StoredTables(tables.reshape(sizes), scale.reshape(rows), offset)
        else:
            stored = StoredTables(_tensor(lut.lut).reshape(sizes))
        found = lut.indices.unpack()
        if found.shape != layout.indices_shape:  # of what the mask is set for alone
            assert mask is not None
            whole = np.zeros(layout.indices_shape, found.dtype)
            whole[mask.numpy()] = found
            found = whole
        indices = torch.from_numpy(found.astype(np.int64))
        indices = indices.movedim(settings.axis, 0).reshape(layout.groups, -1)
        scales = _tensor(expr.scale) if isinstance(expr, Scale) else None
        return cls(settings, shape, stored, indices, scales, mask)


def stored_tables(tables: torch.Tensor, dtype: str | None) -> StoredTables:
    """``tables`` (groups, entries, dim) rounded to what is stored. ``dtype``: of entries of 8 bits, or None."""
    if dtype is None:
        return StoredTables(halves(tables))
    low, high = _BYTE_RANGES[dtype]
    if dtype == "int8":
        scale = halves((tables.abs().amax((1, 2), keepdim=True) / high).clamp_min(1e-7))
        return StoredTables((tables / scale).round().clamp(low, high), scale)
    least, most = tables.amin((1, 2), keepdim=True).clamp_max(0.0), tables.amax((1, 2), keepdim=True).clamp_min(0.0)
    scale = halves(((most - least) / high).clamp_min(1e-7))
    offset = (-least / scale).round().clamp(low, high)
    return StoredTables((tables / scale + offset).round().clamp(low, high), scale, offset)


def halves(values: torch.Tensor) -> torch.Tensor:
    """The nearest numbers that float16 holds; as they are where they are beyond it."""
    rounded = values.half().float()
    return rounded if bool(torch.isfinite(rounded).all()) else values.clone()


def packed_mask(mask: torch.Tensor) -> Packed:
    """Of bools, as the solver takes it."""
    return Packed.pack(mask.cpu().numpy().astype(np.uint8), 1)


def _array(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().cpu().numpy()
    return array


def _tensor(part: Any) -> torch.Tensor:
    array = part if isinstance(part, np.ndarray) else part.decode()
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))
