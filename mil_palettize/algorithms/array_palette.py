"""Palettes by algorithms that see arrays and make their own indices."""

from __future__ import annotations

import math
import threading

import numpy as np

from mil_palettize.algorithms.compiled.assignment import pack_indices
from mil_palettize.algorithms.palette import ArrayAlgorithm, Palette, Request
from mil_palettize.algorithms.source import raise_non_finite
from mil_palettize.expressions.weight_expr import Lut, Packed, packed_nbytes

one_at_a_time = threading.RLock()  # a user's function need not be safe on threads


def array_palette(algorithm: ArrayAlgorithm, request: Request) -> Palette:
    """One table per group, all padded to the widest by repeating the last entry.

    Raises ``NonFiniteError`` and what the algorithm raises.
    """
    source = request.source
    array = source.read()
    if not np.isfinite(array).all():
        raise_non_finite(source)
    dim, axis = request.cluster_dim, request.axis
    shape = request.indices_shape
    indices = np.empty(shape, np.uint8)
    parts, targets = _parts(array, request), _parts(indices, request)
    luts, errors, signals = [], [], []
    with one_at_a_time:
        for part, target in zip(parts, targets, strict=True):
            lut, chosen = algorithm.codes(np.array(part, order="C"), request)
            target[...] = chosen.reshape(target.shape)
            wide = part.astype(np.float64)
            decoded = lut.astype(np.float64)[target]
            if dim > 1:
                decoded = np.moveaxis(decoded, -1, 1).reshape(part.shape)
            errors.append(np.sum(np.square(wide - decoded)))
            signals.append(np.sum(np.square(wide)))
            luts.append(lut)
    nbits = request.nbits_for(max(len(lut) for lut in luts))
    filler = [((0, (1 << nbits) - len(lut)), *[(0, 0)] * (lut.ndim - 1)) for lut in luts]
    table = np.stack([np.pad(lut, pad, mode="edge") for lut, pad in zip(luts, filler, strict=True)])
    packed = np.empty(packed_nbytes(indices.size, nbits), np.uint8)
    pack_indices(indices.reshape(-1), nbits, packed)
    stored = table.reshape(request.lut_shape(nbits))
    expr = Lut(Packed(packed, nbits, shape), stored, None if dim == 1 else axis)
    return Palette(expr, math.fsum(errors), math.fsum(signals))


def _parts(array: np.ndarray, request: Request) -> list[np.ndarray]:
    """Views of the groups. For vectors their axis comes first, swapped with the first one, as in coremltools."""
    if request.cluster_dim == 1:
        return np.split(array, request.groups, axis=request.axis)
    return np.split(np.swapaxes(array, 0, request.axis), request.groups, axis=0)
