"""Palettes by algorithms that see arrays and make their own indices."""

from __future__ import annotations

import math
import threading

import numpy as np

from mil_palettize.weight_expr import Lut, Packed, packed_nbytes

from .assign import pack_indices
from .palette import ArrayAlgorithm, Palette, Request
from .source import raise_non_finite

_one_at_a_time = threading.RLock()  # a user's function need not be safe on threads


def array_palette(algorithm: ArrayAlgorithm, request: Request) -> Palette:
    """One table per group, all padded to the widest by repeating the last entry.

    Raises ``NonFiniteError`` and what the algorithm raises.
    """
    source = request.source
    array = source.read()
    if not np.isfinite(array).all():
        raise_non_finite(source)
    parts = np.split(array, request.groups, axis=request.axis)
    indices = np.empty(array.shape, np.uint8)
    targets = np.split(indices, request.groups, axis=request.axis)
    luts, errors, signals = [], [], []
    with _one_at_a_time:
        for part, target in zip(parts, targets, strict=True):
            lut, chosen = algorithm.codes(np.array(part, order="C"), request)
            target[...] = chosen.reshape(part.shape)
            wide = part.astype(np.float64)
            errors.append(np.sum(np.square(wide - lut.astype(np.float64)[target])))
            signals.append(np.sum(np.square(wide)))
            luts.append(lut)
    nbits = request.nbits_for(max(len(lut) for lut in luts))
    table = np.stack([np.pad(lut, (0, (1 << nbits) - len(lut)), mode="edge") for lut in luts])
    packed = np.empty(packed_nbytes(indices.size, nbits), np.uint8)
    pack_indices(indices.reshape(-1), nbits, packed)
    expr = Lut(Packed(packed, nbits, array.shape), table.reshape(request.lut_shape(nbits)))
    return Palette(expr, math.fsum(errors), math.fsum(signals))
