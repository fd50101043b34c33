"""The palette that a weight of a torch model has become, and what it is stored as."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mil_palettize.expressions.packed import Packed
from mil_palettize.expressions.weight_expr import Const, Lut, Scale, WeightExpr, lut_of
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
    """``indices``: int64 (groups, points). ``scale``: of each channel, of the weight's rank, or None."""

    settings: WeightSettings
    shape: tuple[int, ...]
    stored: StoredTables
    indices: torch.Tensor
    scale: torch.Tensor | None

    @property
    def values(self) -> torch.Tensor:
        """Of the whole weight, float32; with scales the products as float32 has them."""
        found = [table[row] for table, row in zip(self.stored.entries, self.indices, strict=True)]
        values = self.settings.layout(self.shape).weight(torch.stack(found))
        return values if self.scale is None else values * self.scale

    def expression(self, dtype: np.dtype) -> WeightExpr:
        """As it is stored, with floats of ``dtype``."""
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
        lut = lut_of(expr)
        layout = settings.layout(lut.shape)
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
        indices = torch.from_numpy(lut.indices.unpack().astype(np.int64))
        indices = indices.movedim(settings.axis, 0).reshape(layout.groups, -1)
        return cls(settings, lut.shape, stored, indices, _tensor(expr.scale) if isinstance(expr, Scale) else None)


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


def _array(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().cpu().numpy()
    return array


def _tensor(part: Any) -> torch.Tensor:
    array = part if isinstance(part, np.ndarray) else part.decode()
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))
