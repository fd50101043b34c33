"""A palette of a package's weight while it is trained, by gradients of what the program gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from mil_palettize.torch.training.soft_kmeans import nearest
from mil_palettize.torch.training.trained_palette import StoredTables, TrainedPalette, halves, stored_tables


class LearnedPalette:
    """``tables`` (groups, entries, dim) and ``scale`` (of each channel, or None) are trained, from those of a palette.

    ``masters``: (groups, points, dim) floats, each of which has the entry that is nearest to it, so that training
    changes indices too; they get the gradients of their entries. None where indices are ``fixed``.
    """

    def __init__(self, palette: TrainedPalette, *, fixed: bool) -> None:
        self._palette = palette
        self.tables = palette.stored.entries.clone().requires_grad_(True)
        self.scale = None if palette.scale is None else palette.scale.clone().requires_grad_(True)
        points = torch.stack([table[row] for table, row in zip(self.tables.detach(), palette.indices, strict=True)])
        self.masters = None if fixed else points.requires_grad_(True)

    @property
    def pace(self) -> float:
        """How far a step may go, beside that of a palette of 1 bit."""
        settings = self._palette.settings
        return 1.0 if self.masters is None else min(1.0, 2.0 ** (1 - settings.nbits / settings.cluster_dim))

    def parts(self) -> Iterator[torch.Tensor]:
        """All that is trained."""
        yield from (part for part in (self.masters, self.tables, self.scale) if part is not None)

    def value(self) -> torch.Tensor:
        """Of the whole weight, float32, with gradients for :meth:`parts`."""
        if self.masters is None:
            return replace(self._palette, stored=StoredTables(self.tables), scale=self.scale).values
        points: torch.Tensor = _Entries.apply(self.masters, self.tables)
        weight = self._palette.settings.layout(self._palette.shape).weight(points)
        return weight if self.scale is None else weight * self.scale

    @torch.no_grad()
    def stored(self) -> TrainedPalette:
        """As it would be written."""
        tables = stored_tables(self.tables.detach(), self._palette.settings.lut_dtype)
        indices = self._palette.indices if self.masters is None else nearest(self.masters, tables.entries)
        scale = None if self.scale is None else halves(self.scale.detach())
        return replace(self._palette, stored=tables, indices=indices, scale=scale)


class _Entries(torch.autograd.Function):
    """The entries nearest to points; both get the gradients of what comes out, entries their sum."""

    @staticmethod
    def forward(ctx: Any, points: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
        indices = nearest(points, tables)[..., None].expand_as(points)
        ctx.save_for_backward(indices, tables)
        return torch.gather(tables, 1, indices)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        indices, tables = ctx.saved_tensors
        return gradient, torch.zeros_like(tables).scatter_add(1, indices, gradient)
