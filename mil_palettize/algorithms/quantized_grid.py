"""The values a quantized look-up table can hold: ``(q - zero) * scale`` for 256 codes ``q``, rounded to a float.

Every table has a scale (and zero point) of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np

from mil_palettize.algorithms.compiled.grids import grid_losses
from mil_palettize.errors import AlgorithmError
from mil_palettize.expressions.weight_expr import Const, Scale

_WORK = 1 << 14  # entries times scales that are compared for a table
SMALL = 256  # values of a table up to which no work is spared
_GRIDS = 16  # that are worth a trial
_SCALE = 16  # values for which one more scale is compared, above ``SMALL``


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
        every = _codes(self.kind)
        return every[np.isfinite(self._decoded)]

    @cached_property
    def values(self) -> np.ndarray:
        """Of ``codes``: ascending float64."""
        return self._decoded[np.isfinite(self._decoded)]

    @cached_property
    def _decoded(self) -> np.ndarray:
        return self.decode(_codes(self.kind))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """As ``constexpr_blockwise_shift_scale`` does it, float64."""
        with np.errstate(over="ignore"):
            return ((codes - self.zero) * self.scale).astype(self.dtype).astype(np.float64) + 0.0

    def nearest(self, x: np.ndarray) -> np.ndarray:
        """Codes of the values nearest to ``x``, int64, ties to the lower."""
        values = self.values
        return self.codes[np.searchsorted((values[1:] + values[:-1]) * 0.5, x)]

    def refitted(self, codes: np.ndarray, means: np.ndarray, masses: np.ndarray) -> Grid:
        """With the scale of least squares for entries of these codes that stand for such means and masses."""
        steps = (codes - self.zero).astype(np.float64)
        power = float(np.sum(masses * steps * steps))
        scale = float(np.sum(masses * steps * means)) / power if power > 0.0 else 0.0
        return replace(self, scale=_scales(np.array([scale]), self.dtype)[0]) if scale > 0.0 else self


def stored(grids: Sequence[Grid], codes: np.ndarray) -> Scale:
    """Tables as they are stored. ``grids``: one of each table; ``codes``: of the shape of ``Lut.lut``."""
    first, shape = grids[0], (*codes.shape[:-2], 1, 1)
    scale = np.array([grid.scale for grid in grids]).astype(first.dtype).reshape(shape)
    offset = None if first.kind == "int8" else np.array([grid.zero for grid in grids], np.uint8).reshape(shape)
    return Scale(Const(codes.astype(first.kind)), scale, offset)


def proposed(kind: str, dtype: np.dtype, entries: np.ndarray, masses: np.ndarray, count: int) -> list[Grid]:
    """Grids to try for a table with these entries, which stands for ``count`` values.

    The first spans them, as rounding a table afterwards would; then come those of half to twice its scale whose values
    are nearest to the entries (weighted by ``masses``), nearest first.
    """
    wide = entries.astype(dtype).astype(np.float64).reshape(-1)
    low, high = min(float(wide.min()), 0.0), max(float(wide.max()), 0.0)
    movable = kind == "uint8"
    span = (high - low) / 255 if movable else max(-low, high) / 127
    spanning = float(_scales(np.array([span]), dtype)[0])
    tried = _WORK // wide.size if count <= SMALL else min(_WORK // wide.size, count // _SCALE)
    scales = np.unique(_scales(span * _parts(min(max(tried, 65), 1025)), dtype))
    losses, zeros = np.empty(len(scales)), np.empty(len(scales), np.int64)
    grid_losses(wide, np.ascontiguousarray(masses, np.float64).reshape(-1), scales, movable, losses, zeros)
    best = np.argsort(losses, kind="stable")[: _GRIDS - 1]
    zero = int(np.clip(np.rint(-low / spanning), 0, 255)) if movable else 0
    grids = [Grid(kind, dtype, spanning, zero), *(Grid(kind, dtype, float(scales[i]), int(zeros[i])) for i in best)]
    return list(dict.fromkeys(grids))


@cache
def _codes(kind: str) -> np.ndarray:
    limits = np.iinfo(kind)
    return np.arange(limits.min, limits.max + 1)


@cache
def _parts(count: int) -> np.ndarray:
    """Half to twice a scale."""
    return np.geomspace(0.5, 2.0, count)


def _scales(scales: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """As positive finite numbers of ``dtype``, float64."""
    info = np.finfo(dtype)
    held = np.clip(scales, float(info.smallest_subnormal), float(info.max)).astype(dtype)
    return held.astype(np.float64)


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
        near = _scales(np.array([largest / steps]), dtype)[0].astype(dtype)
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
