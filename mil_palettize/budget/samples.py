"""A part of a large weight that stands for all of it, so that time and memory of a plan do not follow the weight."""

from __future__ import annotations

import math

import numpy as np

_BLOCK = 32  # channels in a row: the largest groups that are looked at lie within
_COLUMNS = 512
_ELEMENTS = 1 << 16
_LARGE = 1 << 20  # elements, from which on half of that is looked at: errors so told are off by some per cent


def part_of(weight: np.ndarray, axis: int, kernel: int) -> np.ndarray:
    """Blocks of 32 channels along ``axis``, evenly apart, with a part of what they are made of: an array of as many
    axes. ``kernel``: how many of the last axes are a window, which stays whole. A weight that is small stays whole."""
    if weight.size <= _ELEMENTS:
        return weight
    elements = _ELEMENTS // 2 if weight.size >= _LARGE else _ELEMENTS
    window = math.prod(weight.shape[len(weight.shape) - kernel :])
    inner = [i for i in range(len(weight.shape) - kernel) if i != axis]
    most = max(1, _COLUMNS // window)
    for i in inner:
        kept = min(weight.shape[i], most)
        weight = weight.take(_evenly(weight.shape[i], kept), axis=i)
        most = max(1, most // kept)
    channels = weight.shape[axis]
    blocks = max(1, elements // (weight.size // channels) // _BLOCK)
    if blocks * _BLOCK >= channels:
        return weight
    starts = _evenly(channels // _BLOCK, blocks) * _BLOCK
    return weight.take((starts[:, None] + np.arange(_BLOCK)).reshape(-1), axis=axis)


def _evenly(count: int, kept: int) -> np.ndarray:
    return np.arange(kept) * count // kept
