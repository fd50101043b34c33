"""How well a palette represents most of a weight's elements, beside its squared error, which few large ones decide."""

from __future__ import annotations

import math

import numpy as np

from mil_palettize.expressions.packed import CHUNK
from mil_palettize.expressions.weight_expr import Lut, WeightExpr

_AT_ZERO = 0.01  # of the way from an entry to its border
_NEARLY_ALL = 0.9
_BULK = 0.9  # of the elements that are not zero, the smallest ones


def bulk_db(expr: WeightExpr, sse: float) -> float | None:
    """Signal to noise of the smallest nine tenths of the elements that are not zero, about: as if these lay evenly
    around their entries, as far as the nearer border. ``sse``: squared error of all elements. What has an entry at zero
    was zero, unless nothing else explains that error. None for other things than scalars in one table of floats, and
    where all that is left is exact.
    """
    if sse == 0.0 or not isinstance(expr, Lut) or not isinstance(expr.lut, np.ndarray) or expr.lut.dtype.kind != "f":
        return None
    if expr.lut.shape[-2] != math.prod(expr.lut.shape):
        return None
    entries, first = np.unique(expr.table.reshape(-1).astype(np.float64), return_inverse=True)
    if len(entries) < 2:
        return None
    counts = np.bincount(first, weights=_counts(expr), minlength=len(entries))
    gaps = np.diff(entries)
    # Where entries lie apart on one side only, few elements lie between: the nearer border says how far they spread.
    halves = np.minimum(np.concatenate((gaps[:1], gaps)), np.concatenate((gaps, gaps[-1:]))) / 2.0
    errors = np.square(halves) / 3.0
    zero = np.abs(entries) < _AT_ZERO * halves
    # What is alone at its entry is exact. The rest of the error is of elements that became zero: all that they were.
    lost = sse - float(np.maximum(counts - 1.0, 0.0)[~zero] @ errors[~zero])
    real = lost > _NEARLY_ALL * sse and bool(zero.any())
    counts[zero] *= real
    signals = np.square(entries)
    if real:
        signals[zero] = errors[zero] = lost / np.maximum(counts[zero], 1.0)
    order = np.argsort(np.abs(entries), kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    part = np.clip((_BULK * counts.sum() - before) / np.maximum(counts[order], 1.0), 0.0, 1.0) * counts[order]
    signal, noise = float(part @ signals[order]), float(part @ errors[order])
    return 10.0 * math.log10(signal / noise) if signal > 0.0 and noise > 0.0 else None


def _counts(lut: Lut) -> np.ndarray:
    indices, found = lut.indices, np.zeros(1 << lut.indices.nbits, np.int64)
    if 8 % indices.nbits:
        _count(indices.unpack().reshape(-1), found)
        return found
    # Bytes are fewer than the indices in them.
    bytes_found = np.zeros(256, np.int64)
    _count(indices.data, bytes_found)
    for shift in range(0, 8, indices.nbits):
        np.add.at(found, (np.arange(256) >> shift) % len(found), bytes_found)
    found[0] -= indices.data.size * 8 // indices.nbits - indices.count  # zeros that fill the last byte
    return found


def _count(numbers: np.ndarray, found: np.ndarray) -> None:
    """Add how often each number occurs; in pieces, as counting makes an int64 copy."""
    for start in range(0, numbers.size, CHUNK):
        found += np.bincount(numbers[start : start + CHUNK], minlength=len(found))
