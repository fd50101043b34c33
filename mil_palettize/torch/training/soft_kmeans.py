"""Differentiable k-means (DKM, arXiv 2108.12659), forward and backward without a map of weights times entries.

Attention of a point ``x`` is ``softmax(-|x - c|^2 / tau)`` over the entries ``c`` of its table; tables are means
weighted by attention, a few times over; what comes out is attention times the last table. The attention is never kept:
both ways work in pieces, and many scalars are reduced to their distinct 16-bit values first (as eDKM does, arXiv
2309.00964), so that time and memory follow the distinct values instead of the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

_PIECE = 1 << 20  # attention values at once
_MANY = 1 << 16  # scalars of a group from which on their distinct 16-bit values are fewer
_BINS = 1 << 16


@dataclass(frozen=True)
class Softness:
    """``tau``: temperature, of squared distances. ``iterations``: of the tables, fewer where squared distances to them
    change by less than ``epsilon``. ``hard``: every point belongs to its nearest entry alone, and gradients pass
    straight through to it."""

    tau: float
    iterations: int = 3
    epsilon: float = 0.0
    hard: bool = False


def soft_kmeans(
    points: torch.Tensor, tables: torch.Tensor, softness: Softness, counts: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The palettized points, and the tables that they came to.

    ``points``: floats (groups, count, dim), ``tables``: (groups, entries, dim), to start from. The first result has the
    shape of ``points`` and gradients with respect to them, through all iterations; the second one has none. ``counts``:
    (groups, count, 1), 1 for points that tables are made of and 0 for others, whose gradients mean nothing.
    """
    made: tuple[torch.Tensor, torch.Tensor] = _SoftKMeans.apply(points, tables, softness, counts)
    return made


def nearest(points: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
    """Indices (groups, count), int64, of the nearest entries; of equally near ones the first."""
    found = torch.empty(points.shape[:2], dtype=torch.int64, device=points.device)
    for groups, part in _pieces(points.shape, tables.shape[1]):
        found[groups, part] = _logits(points[groups, part], tables[groups]).argmax(-1)
    return found


class _SoftKMeans(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, points: torch.Tensor, start: torch.Tensor, softness: Softness, counts: torch.Tensor | None
    ) -> tuple[Any, Any]:
        cloud = _Cloud(points, counts)
        tables = [start]
        error = None
        for _ in range(softness.iterations):
            made, before = _next_tables(cloud, tables[-1], softness), error
            tables.append(made)
            error = float((made - tables[-2]).square().sum()) if softness.epsilon else None
            if before is not None and error is not None and abs(before - error) <= softness.epsilon:
                break
        ctx.save_for_backward(points, *tables)
        ctx.softness, ctx.counts = softness, counts
        result = torch.empty_like(cloud.values)
        for groups, part in _pieces(cloud.values.shape, start.shape[1]):
            attention = _attention(cloud.values[groups, part], tables[-2][groups], softness)
            result[groups, part] = attention @ tables[-1][groups]
        last = tables[-1].clone()
        ctx.mark_non_differentiable(last)
        return cloud.spread(result), last

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor, _: Any) -> tuple[torch.Tensor, None, None, None]:
        points, *tables = ctx.saved_tensors
        softness = ctx.softness
        cloud = _Cloud(points, ctx.counts)
        gathered = cloud.gather(gradient)
        direct = _slope(cloud.values, tables, softness) if cloud.binned else None
        total = _points_gradient(cloud, tables, gathered, softness)
        if direct is None:
            return total + gradient if softness.hard else total, None, None, None
        # A bin's points share what reaches them through the tables; the slope applies to the gradient of each alone.
        shared = cloud.spread(total - gathered * direct)
        return shared + gradient * (1.0 if softness.hard else cloud.spread(direct)), None, None, None


class _Cloud:
    """Points, or the distinct 16-bit values of many scalars with how often each occurs.

    ``values``: (groups, count, dim); ``counts``: (groups, count, 1), None where every point counts once.
    """

    def __init__(self, points: torch.Tensor, counts: torch.Tensor | None) -> None:
        groups, count, dim = points.shape
        self.binned = dim == 1 and count > _MANY and points.dtype != torch.float64
        self._shape = points.shape
        self.values, self.counts = points, counts
        if not self.binned:
            return
        # A power of two brings the largest near the top of what float16 holds: 11 digits for all but tiny values.
        top = points.abs().amax()
        power = torch.exp2(torch.floor(torch.log2(32768.0 / top.clamp_min(torch.finfo(points.dtype).tiny))))
        self._codes = (points[..., 0] * power).half().view(torch.int16).int() + (_BINS >> 1)
        binned = torch.stack([torch.bincount(codes, minlength=_BINS) for codes in self._codes])
        every = torch.arange(-(_BINS >> 1), _BINS >> 1, device=points.device).to(torch.int16).view(torch.float16)
        kept = (binned > 0).any(0)
        self._kept = kept
        self._places = (torch.cumsum(kept, 0) - 1).int()
        self.values = (every[kept].to(points.dtype) / power).expand(groups, -1)[..., None].contiguous()
        if counts is not None:
            pairs = zip(self._codes, counts[..., 0], strict=True)
            binned = torch.stack([torch.bincount(c, weights=n, minlength=_BINS) for c, n in pairs])
        self.counts = binned[:, kept, None].to(points.dtype)

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """What is known of ``values``, for each point."""
        if not self.binned:
            return values
        whole = torch.zeros(len(values), _BINS, dtype=values.dtype, device=values.device)
        whole[:, self._kept] = values[..., 0]
        spread = [row.index_select(0, codes) for row, codes in zip(whole, self._codes, strict=True)]
        return torch.stack(spread).view(self._shape) if len(spread) > 1 else spread[0].view(self._shape)

    def gather(self, gradient: torch.Tensor) -> torch.Tensor:
        """The sums over the points of each of ``values``."""
        if not self.binned:
            return gradient
        flat = gradient.reshape(self._shape[:2])
        sums = [torch.bincount(c, weights=g, minlength=_BINS) for c, g in zip(self._codes, flat, strict=True)]
        return torch.stack(sums)[:, self._kept, None].to(gradient.dtype)


def _pieces(shape: torch.Size, entries: int) -> Iterator[tuple[slice, slice]]:
    """Slices of groups and of points, whose attention is small enough to be held."""
    groups, count, _ = shape
    few = max(1, _PIECE // max(1, count * entries))
    most = count if few > 1 else max(1, _PIECE // entries)
    for group in range(0, groups, few):
        for start in range(0, count, most):
            yield slice(group, group + few), slice(start, start + most)


def _logits(points: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
    """Minus the squared distances, but for what is the same for all entries."""
    return torch.baddbmm(-tables.square().sum(-1)[:, None], points, tables.mT, alpha=2.0)


def _attention(points: torch.Tensor, tables: torch.Tensor, softness: Softness) -> torch.Tensor:
    logits = _logits(points, tables)
    if softness.hard:
        return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
    return torch.softmax(logits.div_(softness.tau), -1)


def _sums(cloud: _Cloud, tables: torch.Tensor, softness: Softness) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention that each entry gets (groups, entries, 1), and the points times it (groups, entries, dim)."""
    weights, sums = torch.zeros_like(tables[..., :1]), torch.zeros_like(tables)
    for groups, part in _pieces(cloud.values.shape, tables.shape[1]):
        values = cloud.values[groups, part]
        attention = _attention(values, tables[groups], softness)
        if cloud.counts is not None:
            attention *= cloud.counts[groups, part]
        weights[groups] += attention.sum(1)[..., None]
        sums[groups] += attention.mT @ values
    return weights, sums


def _next_tables(cloud: _Cloud, tables: torch.Tensor, softness: Softness) -> torch.Tensor:
    """Means by attention; an entry that gets none stays."""
    weights, sums = _sums(cloud, tables, softness)
    return torch.where(_attended(weights), sums / weights, tables)


def _attended(weights: torch.Tensor) -> torch.Tensor:
    return weights > 1e-30


def _slope(values: torch.Tensor, tables: list[torch.Tensor], softness: Softness) -> torch.Tensor:
    """How much what comes out for a scalar changes with it, at fixed tables: a covariance under its attention."""
    slope = torch.zeros_like(values)
    if softness.hard:
        return slope
    for groups, part in _pieces(values.shape, tables[-1].shape[1]):
        attention = _attention(values[groups, part], tables[-2][groups], softness)
        before, after = tables[-2][groups], tables[-1][groups]
        covariance = attention @ (before * after) - (attention @ before) * (attention @ after)
        slope[groups, part] = covariance * (2.0 / softness.tau)
    return slope


def _points_gradient(
    cloud: _Cloud, tables: list[torch.Tensor], gradient: torch.Tensor, softness: Softness
) -> torch.Tensor:
    """Of the loss with respect to ``cloud.values``, each for one of its points; backwards through all iterations."""
    result = torch.zeros_like(cloud.values)
    entries = tables[0].shape[1]
    of_table = torch.zeros_like(tables[-1])
    for groups, part in _pieces(cloud.values.shape, entries):
        attention = _attention(cloud.values[groups, part], tables[-2][groups], softness)
        of_table[groups] += attention.mT @ gradient[groups, part]
    for number in range(len(tables) - 1, 0, -1):
        before, made = tables[number - 1], tables[number]
        weights, _ = _sums(cloud, before, softness)
        of_sums = torch.where(_attended(weights), of_table / weights, 0.0)
        of_weights = -(of_sums * made).sum(-1, keepdim=True)
        of_before = torch.where(_attended(weights), 0.0, of_table)
        for groups, part in _pieces(cloud.values.shape, entries):
            values, counts = cloud.values[groups, part], 1.0 if cloud.counts is None else cloud.counts[groups, part]
            attention = _attention(values, before[groups], softness)
            result[groups, part] += attention @ of_sums[groups]
            if softness.hard:
                continue
            # of the attention: by point through the tables, and in the last iteration through what comes out
            through = values @ of_sums[groups].mT + of_weights[groups].mT
            own = gradient[groups, part] @ made[groups].mT if number == len(tables) - 1 else 0.0
            of_logits = attention * (through - (attention * through).sum(-1, keepdim=True))
            last = attention * (own - (attention * own).sum(-1, keepdim=True)) if number == len(tables) - 1 else 0.0
            result[groups, part] += (of_logits + last) @ before[groups] * (2.0 / softness.tau)
            summed = (of_logits * counts + last) * (2.0 / softness.tau)
            of_before[groups] += summed.mT @ values - summed.sum(1)[..., None] * before[groups]
        of_table = of_before
    return result
