"""How well quantized tables of many scales can stand for given entries, compiled (numba, without the GIL)."""

from __future__ import annotations

import math

import numpy as np

from mil_palettize.algorithms.compiled.jit import compiled, inlined

_SHIFTS = 5  # zero points that are tried where the codes do not reach from the least entry to the greatest


@inlined
def _loss(entries, masses, scale, low, high):  # type: ignore[no-untyped-def]
    """Squared distance of entries from the multiples ``low .. high`` of a scale."""
    total = 0.0
    for i in range(len(entries)):
        step = min(max(np.rint(entries[i] / scale), low), high)
        total += masses[i] * (entries[i] - step * scale) ** 2
    return total


@compiled
def grid_losses(entries, masses, scales, movable, losses, zeros):  # type: ignore[no-untyped-def]
    """Fill ``losses`` with the least squared distance of entries from a grid of each scale.

    The grid's codes are -128 .. 127, or with ``movable`` any 256 that follow each other with 0 among them, where
    ``zeros`` (int64) becomes how many of them are negative. All float64, masses not negative, scales positive.
    """
    least, greatest = 0.0, 0.0
    for i in range(len(entries)):
        least, greatest = min(least, entries[i]), max(greatest, entries[i])
    for s in range(len(scales)):
        zeros[s] = 0
        if not movable:
            losses[s] = _loss(entries, masses, scales[s], -128.0, 127.0)
            continue
        below, above = np.rint(-least / scales[s]), 255.0 - np.rint(greatest / scales[s])
        losses[s] = math.inf
        for t in range(_SHIFTS if above < below else 1):
            zero = min(max(np.rint(below + (above - below) * t / (_SHIFTS - 1)), 0.0), 255.0)
            loss = _loss(entries, masses, scales[s], -zero, 255.0 - zero)
            if loss < losses[s]:
                losses[s] = loss
                zeros[s] = np.int64(zero)
