"""The parametrization that makes a weight a palette while a model is trained."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from mil_palettize.algorithms.making import ArraySource, make_palette
from mil_palettize.errors import AlgorithmError
from mil_palettize.expressions.weight_expr import Scale, Sparse, lut_of
from mil_palettize.torch.training.settings import WeightSettings
from mil_palettize.torch.training.soft_kmeans import nearest, soft_kmeans
from mil_palettize.torch.training.trained_palette import TrainedPalette, halves, packed_mask, stored_tables


class PalettizedWeight(nn.Module):
    """``forward`` takes the float weight and gives it palettized: softly while training, hard otherwise.

    Does nothing until it is begun. ``tables``: float32 (groups, entries, dim), where the next forward pass starts from;
    each pass while training leaves those it came to. ``mask``: where a weight that was pruned may be other than zero.
    """

    tables: torch.Tensor
    scale: torch.Tensor
    begun: torch.Tensor
    mask: torch.Tensor | None

    def __init__(self, name: str, weight: torch.Tensor, settings: WeightSettings, pruned: bool = False) -> None:
        super().__init__()
        self.name, self.settings, self.layout = name, settings, settings.layout(tuple(weight.shape))
        sizes = (self.layout.groups, 1 << settings.nbits, settings.cluster_dim)
        channels = [size if axis == settings.output_axis else 1 for axis, size in enumerate(weight.shape)]
        self.register_buffer("tables", torch.zeros(sizes, device=weight.device))
        self.register_buffer("scale", torch.ones(channels, device=weight.device))
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool, device=weight.device))
        self.register_buffer("mask", weight.detach() != 0 if pruned else None)
        self.enabled = True  # of a begun one, whether it does anything

    @torch.no_grad()
    def begin(self, weight: torch.Tensor) -> None:
        """Start from the best tables for ``weight`` as it is. Raises NonFiniteError."""
        source = ArraySource(self.name, weight.detach().float().cpu().numpy())
        mask = None if self.mask is None else packed_mask(self.mask)
        palette = make_palette(source, self.settings.specification(), mask=mask)
        tables = lut_of(palette.expr).table.astype(np.float32)
        self.tables.copy_(torch.from_numpy(tables.reshape(self.tables.shape)))
        scaled = palette.expr.data if isinstance(palette.expr, Sparse) else palette.expr
        if isinstance(scaled, Scale):
            self.scale.copy_(torch.from_numpy(np.asarray(scaled.scale, np.float32)))
        self.begun.fill_(True)

    @torch.compiler.disable
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        if not (self.enabled and bool(self.begun)):
            return weight
        if not self.training:
            return self.palette(weight).values.to(weight.dtype)
        value = weight.float() if self.mask is None else weight.float() * self.mask
        made = self._soft(value / self.scale) * self.scale
        return (made if self.mask is None else made * self.mask).to(weight.dtype)

    def _soft(self, weight: torch.Tensor) -> torch.Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            counts = None if self.mask is None else self.layout.points(self.mask.float())
            points = self.layout.points(weight)
            made, tables = soft_kmeans(points, self.tables.clone(), self.settings.softness, counts)
        self.tables.copy_(tables.detach())
        return self.layout.weight(made)

    @torch.no_grad()
    def palette(self, weight: torch.Tensor) -> TrainedPalette:
        """Nearest entries, of tables that float16 holds. Raises AlgorithmError for NaN and infinity."""
        self.check(weight)
        value = weight.detach().float()
        stored = stored_tables(self.tables, self.settings.lut_dtype)
        scale = halves(self.scale) if self.settings.scale_axis is not None else None
        points = self.layout.points(value if scale is None else value / scale)
        return TrainedPalette(
            self.settings, self.layout.shape, stored, nearest(points, stored.entries), scale, self.mask
        )

    def check(self, weight: torch.Tensor) -> None:
        """Raise AlgorithmError for a weight, or tables, that hold NaN or infinity."""
        if not (torch.isfinite(weight).all() and torch.isfinite(self.tables).all()):
            raise AlgorithmError(
                f"weight '{self.name}' has NaN or infinite values; the loss was no number: lower the learning rate, "
                "and go on from the last checkpoint"
            )
