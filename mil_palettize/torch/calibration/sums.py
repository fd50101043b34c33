"""Second moments of what weights are multiplied with, summed sample by sample in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mil_palettize.torch.calibration.readers import Inputs
from mil_palettize.torch.calibration.streams import wide

_TOGETHER = 2048  # inputs that are multiplied together
_PANEL = 192  # columns


@dataclass(frozen=True, eq=False)
class ReadMoments:
    """Of one reader of a weight. ``where``: int64 (matrices, rows, columns), places in the weight. ``square``,
    ``cross``: float64 (matrices, columns, columns), sums over the inputs x_q of the palettized network and x_f of the
    float one of x_q x_qᵀ and x_f x_qᵀ; ``cross`` None where both are the same. ``count``: inputs looked at.
    ``residual``: float64 (matrices, rows, columns), sums of (r_f - r_q) x_qᵀ, where r is added to the op's output; None
    where nothing is, or it is the same."""

    where: np.ndarray
    square: np.ndarray
    cross: np.ndarray | None
    count: int
    residual: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class _Waiting:
    """Inputs of one sample: of the palettized network, of the float one (None: the same), how many each of them stands
    for, and what is missing in what is added to the op's output (None: nothing)."""

    own: torch.Tensor
    other: torch.Tensor | None
    counted: float
    residual: torch.Tensor | None


@dataclass(frozen=True, eq=False)
class _Own:
    """The matrices, rows and columns of an operand that are the weight's: a constant may be one of several that are
    joined. ``where``: int64 of these; ``matrices``, ``rows``, ``columns``: their numbers."""

    where: np.ndarray
    matrices: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    all_columns: bool


def is_whole(where: np.ndarray) -> bool:
    """Whether what is the weight's are whole rows and columns of matrices."""
    return bool((_own(where).where >= 0).all())


def _own(where: np.ndarray) -> _Own:
    inside = where >= 0
    matrices, rows, columns = (np.flatnonzero(inside.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1)))
    whole = len(columns) == where.shape[2] and len(matrices) == where.shape[0]
    own = np.ascontiguousarray(where[np.ix_(matrices, rows, columns)])
    return _Own(own, torch.from_numpy(matrices), torch.from_numpy(rows), torch.from_numpy(columns), whole)


class Sums:
    """``where``: as the op reads its operand (see ``matrices``), negative for what is not the weight's."""

    def __init__(self, where: np.ndarray) -> None:
        self.own = _own(where)
        self._lower: torch.Tensor | None = None  # of the square, with its diagonal; None for 0
        self._cross: torch.Tensor | None = None  # the same as the square so far
        self._residual: torch.Tensor | None = None
        self.count = 0
        self._waiting: list[_Waiting] = []

    def add(self, palettized: Inputs, float_inputs: Inputs | None, residual: torch.Tensor | None = None) -> None:
        """Inputs of one sample; ``float_inputs`` None where they are the same. ``residual``: (matrices, inputs, rows),
        what the float network adds to the op's output less what the palettized one does, None for nothing."""
        one = self._of_weight(palettized.columns)
        other = None if float_inputs is None else self._of_weight(float_inputs.columns)
        missing = None if residual is None else residual[self.own.matrices][:, :, self.own.rows]
        self._waiting.append(_Waiting(one, other, palettized.counted, missing))
        self.count += one.shape[0] * one.shape[1]
        if sum(part.own.shape[1] for part in self._waiting) >= _TOGETHER:
            self._flush()

    def _of_weight(self, columns: torch.Tensor) -> torch.Tensor:
        if self.own.all_columns:
            return columns
        return columns[self.own.matrices][:, :, self.own.columns]

    def _flush(self) -> None:
        if not self._waiting:
            return
        own = _joined([part.own for part in self._waiting])
        weights = [torch.full((part.own.shape[1], 1), part.counted, dtype=torch.float64) for part in self._waiting]
        weighted = own * torch.cat(weights).to(own.device)
        differs = any(part.other is not None for part in self._waiting)
        if differs or self._cross is not None:
            before = self._square() if self._cross is None else self._cross
            floats = _joined([p.own if p.other is None else p.other for p in self._waiting]) if differs else own
            crossed = floats.mT @ weighted
            self._cross = crossed if before is None else before.to(own.device) + crossed
        self._add_square(own, weighted)
        if any(part.residual is not None for part in self._waiting):
            rows = len(self.own.rows)
            missing = [
                part.own.new_zeros((*part.own.shape[:2], rows)) if part.residual is None else part.residual
                for part in self._waiting
            ]
            added_here = _joined(missing).mT @ weighted
            self._residual = added_here if self._residual is None else self._residual + added_here
        self._waiting.clear()

    def _add_square(self, own: torch.Tensor, weighted: torch.Tensor) -> None:
        """The lower triangle alone, in panels of columns: the other one is its mirror image."""
        size = own.shape[2]
        if self._lower is None:
            self._lower = torch.zeros((own.shape[0], size, size), dtype=own.dtype, device=own.device)
        for start in range(0, size, _PANEL):
            panel = slice(start, start + _PANEL)
            self._lower[:, start:, panel] += own[:, :, start:].mT @ weighted[:, :, panel]

    def _square(self) -> torch.Tensor | None:
        """Symmetric to the last bit."""
        if self._lower is None:
            return None
        below = self._lower.tril(-1)
        return below + below.mT + torch.diag_embed(self._lower.diagonal(dim1=1, dim2=2))

    def moments(self) -> ReadMoments:
        """Of all inputs that were added, one at least."""
        self._flush()
        square = self._square()
        assert square is not None
        cross = None if self._cross is None else self._cross.cpu().numpy()
        residual = None if self._residual is None else self._residual.cpu().numpy()
        return ReadMoments(self.own.where, square.cpu().numpy(), cross, self.count, residual)


def added(one: ReadMoments, two: ReadMoments) -> ReadMoments:
    """Of the inputs of both; of one reader."""
    cross = None
    if one.cross is not None or two.cross is not None:
        cross = (one.square if one.cross is None else one.cross) + (two.square if two.cross is None else two.cross)
    missing = [part for part in (one.residual, two.residual) if part is not None]
    residual = sum(missing[1:], missing[0]) if missing else None
    return ReadMoments(one.where, one.square + two.square, cross, one.count + two.count, residual)


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([wide(part) for part in parts], dim=1)
