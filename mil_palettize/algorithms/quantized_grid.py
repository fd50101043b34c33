"""The values a quantized look-up table can hold: ``(q - zero) * scale`` for 256 codes ``q``, rounded to a float."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mil_palettize.errors import AlgorithmError
from mil_palettize.expressions.weight_expr import Const, Scale

_SHRUNK = np.geomspace(1.0, 0.6, 48)  # parts of the range that a symmetric grid is tried on
_ENDS = np.linspace(1.0, 0.64, 9)  # the same of each end of one with a zero point
_BLOCK = 1 << 16


class UnquantizableError(AlgorithmError):
    """A lossless palette was asked for whose values no quantized table, or no table with scales, holds exactly."""


@dataclass(frozen=True)
class Grid:
    """``kind``: "int8", symmetric, or "uint8" with the zero point ``zero``. ``scale``: a number of ``dtype``."""

    kind: str
    dtype: np.dtype
    scale: float
    zero: int = 0

    @cached_property
    def codes(self) -> np.ndarray:
        """The codes whose values are finite, ascending int64."""
        limits = np.iinfo(self.kind)
        every = np.arange(limits.min, limits.max + 1)
        return every[np.isfinite(self.decode(every))]

    @cached_property
    def values(self) -> np.ndarray:
        """Of ``codes``: ascending float64."""
        return self.decode(self.codes)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """As ``constexpr_blockwise_shift_scale`` does it, float64."""
        with np.errstate(over="ignore"):
            return ((codes - self.zero) * self.scale).astype(self.dtype).astype(np.float64) + 0.0

    def nearest(self, x: np.ndarray) -> np.ndarray:
        """Codes of the values nearest to ``x``, int64, ties to the lower."""
        values = self.values
        return self.codes[np.searchsorted((values[1:] + values[:-1]) * 0.5, x)]

    def part(self, codes: np.ndarray) -> Scale:
        """Codes (the shape of a look-up table) as they are stored."""
        shape = (1,) * codes.ndim
        scale = np.full(shape, self.scale, self.dtype)
        offset = None if self.kind == "int8" else np.full(shape, self.zero, np.uint8)
        return Scale(Const(codes.astype(self.kind)), scale, offset)


def proposed(kind: str, dtype: np.dtype, entries: np.ndarray) -> list[Grid]:
    """Grids to try for a table with these entries; the first spans them, as rounding a table afterwards would."""
    stored = entries.astype(dtype)
    low, high = min(float(stored.min()), 0.0), max(float(stored.max()), 0.0)
    if kind == "int8":
        largest = max(-low, high)
        scales = [largest / 127, largest / 127.5, largest / 128, *(largest / 127 * _SHRUNK)]
        grids = [Grid(kind, dtype, _scale(scale, dtype)) for scale in scales]
    else:
        ends = [(low * left, high * right) for left in _ENDS for right in _ENDS]
        grids = [_between(dtype, left, right) for left, right in ends]
    return list(dict.fromkeys(grids))


def _between(dtype: np.dtype, low: float, high: float) -> Grid:
    scale = _scale((high - low) / 255, dtype)
    return Grid("uint8", dtype, scale, int(np.clip(np.rint(-low / scale), 0, 255)))


def _scale(scale: float, dtype: np.dtype) -> float:
    """A positive finite number of ``dtype``."""
    info = np.finfo(dtype)
    return float(np.clip(scale, float(info.smallest_subnormal), float(info.max)).astype(dtype))


def ranked(grids: Sequence[Grid], entries: np.ndarray, masses: np.ndarray) -> list[Grid]:
    """Ascending by how far entries (float64, weighted by ``masses``) are from the grid's values."""
    limits = np.iinfo(grids[0].kind)
    losses = []
    for grid in grids:
        loss = 0.0
        for start in range(0, len(entries), _BLOCK):
            part, mass = entries[start : start + _BLOCK], masses[start : start + _BLOCK]
            steps = np.clip(np.rint(part / grid.scale), limits.min - grid.zero, limits.max - grid.zero)
            loss += float(np.sum(mass * np.square(part - steps * grid.scale)))
        losses.append(loss)
    return [grids[i] for i in np.argsort(losses, kind="stable")]


def exact_grid(name: str, kind: str, dtype: np.dtype, entries: np.ndarray) -> Grid:
    """A grid that has all entries (numbers of ``dtype``) among its values. Raises ``UnquantizableError``.

    The largest magnitude is some number of steps, at most 255, which fixes the step up to neighbouring floats; all of
    these are tried.
    """
    distinct = np.unique(entries)
    largest = float(np.abs(distinct).max())
    if largest == 0.0:
        return Grid(kind, dtype, 1.0)
    limits = np.iinfo(kind)
    for steps in range(1, 1 + max(-limits.min, limits.max)):
        near = np.asarray(_scale(largest / steps, dtype), dtype)
        for scale in (near, np.nextafter(near, dtype.type(0)), np.nextafter(near, dtype.type(np.inf))):
            if scale > 0 and np.isfinite(scale):
                whole = np.rint(distinct / float(scale))
                zero = 0 if kind == "int8" else int(min(max(0.0, -whole.min()), 255))
                grid = Grid(kind, dtype, float(scale), zero)
                inside = whole.min() + zero >= limits.min and whole.max() + zero <= limits.max
                if inside and np.array_equal(grid.decode(whole + zero), distinct):
                    return grid
    raise UnquantizableError(
        f"weight '{name}' has {len(distinct)} distinct values that no {kind} look-up table holds exactly; mode "
        "'unique' is lossless: leave out lut_dtype, or use mode 'kmeans'"
    )
