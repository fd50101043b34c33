"""Tables of what became of a torch model's weights."""

from __future__ import annotations

from typing import Any

import torch

from mil_palettize.reports.tables import format_table
from mil_palettize.torch.training.trained_palette import TrainedPalette

Row = dict[str, Any]


class WeightsReport(dict[str, Row]):
    """By the name of the weight; printed as a table."""

    def __repr__(self) -> str:
        if not self:
            return "no weight is palettized"
        header = ["weight", *next(iter(self.values()))]
        rows = [[name, *(_told(value) for value in row.values())] for name, row in self.items()]
        return format_table(header, rows, width=160)

    __str__ = __repr__


def weight_row(weight: torch.Tensor, palette: TrainedPalette) -> Row:
    """``error``: root of the mean squared error, as coremltools has it."""
    wanted = weight.detach().float()
    error = (wanted - palette.values).square().mean()
    settings = palette.settings
    return {
        "error": float(error.sqrt()),
        "snr_db": float(10 * torch.log10(wanted.square().mean() / error.clamp_min(1e-30))),
        "#params": wanted.numel(),
        "n_bits": settings.nbits,
        "luts": len(palette.stored.tables),
        "cluster_dim": settings.cluster_dim,
    }


def _told(value: Any) -> str:
    return f"{value:.5f}" if isinstance(value, float) else str(value)
