"""Second moments of what weights are multiplied with, summed sample by sample in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mil_palettize.torch.calibration.readers import Inputs

_TOGETHER = 2048  # inputs that are multiplied together


@dataclass(frozen=True, eq=False)
class ReadMoments:
    """Of one reader of a weight. ``where``: int64 (matrices, rows, columns), places in the weight. ``square``,
    ``cross``: float64 (matrices, columns, columns), sums over the inputs x_q of the palettized network and x_f of the
    float one of x_q x_qᵀ and x_f x_qᵀ; ``cross`` None where both are the same. ``count``: inputs looked at."""

    where: np.ndarray
    square: np.ndarray
    cross: np.ndarray | None
    count: int


class Sums:
    """``where``: as in :class:`ReadMoments`."""

    def __init__(self, where: np.ndarray) -> None:
        self.where = where
        shape = (where.shape[0], where.shape[2], where.shape[2])
        self.square, self.cross = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
        self.count = 0
        self.same = True
        self._waiting: list[tuple[torch.Tensor, torch.Tensor | None, float]] = []

    def add(self, palettized: Inputs, float_inputs: Inputs | None) -> None:
        """Inputs of one sample; ``float_inputs`` None where they are the same."""
        other = None if float_inputs is None else float_inputs.columns
        self._waiting.append((palettized.columns, other, palettized.counted))
        self.count += palettized.columns.shape[0] * palettized.columns.shape[1]
        if sum(part.shape[1] for part, _, _ in self._waiting) >= _TOGETHER:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        own = _joined([part for part, _, _ in self._waiting])
        weights = torch.cat([torch.full((p.shape[1], 1), w, dtype=torch.float64) for p, _, w in self._waiting])
        weighted = own * weights
        self.square += own.mT @ weighted
        if any(other is not None for _, other, _ in self._waiting):
            self.same = False
            self.cross += _joined([p if o is None else o for p, o, _ in self._waiting]).mT @ weighted
        else:
            self.cross += own.mT @ weighted
        self._waiting.clear()

    def moments(self) -> ReadMoments:
        """Symmetric to the last bit."""
        self._flush()
        square = self.square.numpy()
        square = (square + square.swapaxes(1, 2)) / 2.0
        return ReadMoments(self.where, square, None if self.same else self.cross.numpy(), self.count)


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([part.double() for part in parts], dim=1)
