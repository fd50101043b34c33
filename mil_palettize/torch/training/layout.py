"""How the elements of a weight are points in groups, each with a look-up table of its own."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch


@dataclass(frozen=True)
class Layout:
    """Of a weight of ``shape``: ``groups`` tables along ``axis``, of vectors of ``dim`` elements along it."""

    shape: tuple[int, ...]
    axis: int
    groups: int
    dim: int

    @property
    def count(self) -> int:
        """Points of a group."""
        return prod(self.shape) // (self.groups * self.dim)

    @property
    def indices_shape(self) -> tuple[int, ...]:
        return tuple(size // self.dim if axis == self.axis else size for axis, size in enumerate(self.shape))

    def points(self, weight: torch.Tensor) -> torch.Tensor:
        """(groups, count, dim)"""
        rows = weight.movedim(self.axis, 0).reshape(self.groups, -1, self.dim, self._rest)
        return rows.movedim(2, 3).reshape(self.groups, self.count, self.dim)

    def weight(self, points: torch.Tensor) -> torch.Tensor:
        """The inverse of :meth:`points`."""
        rows = points.reshape(self.groups, -1, self._rest, self.dim).movedim(3, 2)
        return rows.reshape(self.shape[self.axis], *self._others).movedim(0, self.axis)

    def indices(self, found: torch.Tensor) -> torch.Tensor:
        """Of points (groups, count), as the indices of the weight's palette are shaped."""
        return found.reshape(self.indices_shape[self.axis], *self._others).movedim(0, self.axis)

    def lut(self, tables: torch.Tensor) -> torch.Tensor:
        """Tables (groups, entries, dim) as a palette has them: (..., groups, ..., entries, dim)."""
        sizes = [self.groups if axis == self.axis else 1 for axis in range(len(self.shape))]
        return tables.reshape(*sizes, *tables.shape[1:])

    @property
    def _others(self) -> list[int]:
        return [size for axis, size in enumerate(self.shape) if axis != self.axis]

    @property
    def _rest(self) -> int:
        return prod(self._others)
