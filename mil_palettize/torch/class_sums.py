"""Choices among classes, row by row: which class is most probable in both, and how far the probabilities are apart."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from mil_palettize.errors import EvaluationError
from mil_palettize.reports.class_figures import ClassFigures, TargetFigures

IGNORED = -100  # a target of no class, as torch's cross entropy has it
_LEAST = 2.0**-24  # of probabilities: fp16 holds none below, and 0 for all that are
_AT_ONCE = 1 << 20  # elements that are float64 at a time
_TOP = 5


@dataclass
class ClassSums:
    """Of all rows added so far."""

    rows: int = 0
    same: int = 0
    top: int = 0
    few: bool = False
    kl: float = 0.0
    kl_worst: float = 0.0
    left_out: int = 0
    known: int = 0
    right: int = 0
    lost: int = 0
    won: int = 0
    loss: float = 0.0
    other_loss: float = 0.0

    def add(self, one: np.ndarray, two: np.ndarray, targets: np.ndarray | None, *, logits: bool) -> None:
        """Arrays of one shape whose last axis is of classes; ``targets``: the right class of each row, of the shape of
        the others without that axis, or so many of them. ``logits``: else probabilities.

        Raises EvaluationError for targets of another shape, or of classes that there are not.
        """
        classes = one.shape[-1]
        x, y = (torch.as_tensor(array).reshape(-1, classes) for array in (one, two))
        known = None if targets is None else _checked(targets, x.shape[0], classes, one.shape[:-1])
        step = max(1, _AT_ONCE // classes)
        for start in range(0, x.shape[0], step):
            rows = slice(start, start + step)
            self._add(x[rows].double(), y[rows].double(), None if known is None else known[rows], logits)

    def _add(self, x: torch.Tensor, y: torch.Tensor, targets: torch.Tensor | None, logits: bool) -> None:
        used = ~((x.isnan() | (x == math.inf)).any(dim=1) | (x == -math.inf).all(dim=1))
        self.left_out += int((~used).sum())
        x, y = x[used], y[used]
        if not x.shape[0]:
            return
        lost = (y.isnan() | (y == math.inf)).any(dim=1) | (y == -math.inf).all(dim=1)
        log_p, log_q = (_logarithms(rows, logits) for rows in (x, y))
        first, other = x.argmax(dim=1), torch.where(lost, -1, y.nan_to_num().argmax(dim=1))
        self.rows += x.shape[0]
        self.same += int((first == other).sum())
        p = log_p.exp()
        kl = torch.where(p > 0, p * (log_p - log_q), 0.0).sum(dim=1).clamp(min=0)
        kl[lost] = math.inf
        self.kl, self.kl_worst = self.kl + float(kl.sum()), max(self.kl_worst, float(kl.max()))
        self.few |= x.shape[1] <= _TOP
        if not self.few:
            best, others = (rows.topk(_TOP, dim=1).indices for rows in (x, y.nan_to_num()))
            among = (best[:, :, None] == others[:, None, :]).any(dim=2)
            self.top += int(among[~lost].sum())
        if targets is not None:
            self._add_targets(log_p, log_q, first, other, targets[used], lost)

    def _add_targets(
        self,
        log_p: torch.Tensor,
        log_q: torch.Tensor,
        first: torch.Tensor,
        other: torch.Tensor,
        targets: torch.Tensor,
        lost: torch.Tensor,
    ) -> None:
        known = targets != IGNORED
        right, other_right = (first == targets)[known], (other == targets)[known]
        self.known += int(known.sum())
        self.right += int(right.sum())
        self.lost += int((right & ~other_right).sum())
        self.won += int((other_right & ~right).sum())
        wanted = targets[known][:, None]
        self.loss -= float(log_p[known].gather(1, wanted).sum())
        self.other_loss -= -math.inf if bool(lost[known].any()) else float(log_q[known].gather(1, wanted).sum())

    def figures(self) -> ClassFigures | None:
        """None where no row was added."""
        if not self.rows:
            return None
        targets = None
        if self.known:
            before, after = (_exponential(loss / self.known) for loss in (self.loss, self.other_loss))
            targets = TargetFigures(self.known, self.right, self.lost, self.won, before, after)
        return ClassFigures(
            rows=self.rows,
            same=self.same / self.rows,
            top_5=None if self.few else self.top / (_TOP * self.rows),
            kl_mean=self.kl / self.rows,
            kl_worst=self.kl_worst,
            left_out=self.left_out,
            targets=targets,
        )


def _logarithms(rows: torch.Tensor, logits: bool) -> torch.Tensor:
    if logits:
        return torch.log_softmax(rows, dim=1)
    probabilities = rows.clamp(min=_LEAST)
    return (probabilities / probabilities.sum(dim=1, keepdim=True)).log()


def _exponential(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def _checked(targets: np.ndarray, rows: int, classes: int, shape: tuple[int, ...]) -> torch.Tensor:
    if targets.size != rows:
        raise EvaluationError(
            f"the labels of a sample are {list(targets.shape)}, and its rows of classes {list(shape)}"
        )
    flat = targets.reshape(-1).astype(np.int64)
    wrong = flat[(flat != IGNORED) & ((flat < 0) | (flat >= classes))]
    if wrong.size:
        raise EvaluationError(f"the label {wrong[0]} is no class; there are {classes}, from 0 on ({IGNORED}: none)")
    return torch.from_numpy(flat)
