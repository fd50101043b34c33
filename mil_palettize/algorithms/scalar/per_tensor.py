"""One table for a whole weight: the weight is read in windows, twice (large float32: three times)."""

from __future__ import annotations

import numpy as np

from mil_palettize.algorithms.compiled.assignment import encode_patterns, encode_single, nearest_sorted
from mil_palettize.algorithms.compiled.counting import PATTERNS, RUN
from mil_palettize.algorithms.distribution import Distribution
from mil_palettize.algorithms.palette import Palette, Request, ScalarAlgorithm, filled, stored_tables
from mil_palettize.algorithms.source import frozen, recut
from mil_palettize.expressions.weight_expr import Lut, Packed, packed_nbytes


def tensor_palette(algorithm: ScalarAlgorithm, request: Request) -> Palette:
    """The palette of one table. Raises what ``describe`` and the algorithm raise."""
    source = request.source
    distribution = request.distinct(source)
    entries = algorithm.entries(distribution, request.most_nbits)
    tables, used = stored_tables(filled([entries], request.most_nbits), source.dtype)
    nbits = request.nbits_for(int(used[0]))
    lut = tables[0, : 1 << nbits]
    packed = np.empty(packed_nbytes(distribution.size, nbits), np.uint8)
    encode = _encode_half if source.dtype == np.float16 else _encode_single
    sse = encode(request, distribution, lut, int(used[0]), nbits, packed)
    stored = lut.astype(source.dtype).reshape(request.lut_shape(nbits))
    return Palette(Lut(Packed(packed, nbits, tuple(source.shape)), stored), sse, distribution.signal)


def _encode_half(
    request: Request, distribution: Distribution, lut: np.ndarray, used: int, nbits: int, packed: np.ndarray
) -> float:
    """Fill ``packed`` by a table from pattern to index; gives the squared error."""
    nearest = np.empty(len(distribution.values), np.uint8)
    sse = nearest_sorted(distribution.values, distribution.weights, lut, used, nearest)
    patterns = distribution.values.astype(np.float16).view(np.uint16)
    table = np.zeros(PATTERNS, np.uint8)
    table[patterns] = nearest
    table[PATTERNS // 2] = table[0]
    start = 0
    for window in request.source.windows():
        stop = start + packed_nbytes(window.size, nbits)
        encode_patterns(frozen(window.view(np.uint16)), table, nbits, packed[start:stop])
        start = stop
    return float(sse)


def _encode_single(
    request: Request, distribution: Distribution, lut: np.ndarray, used: int, nbits: int, packed: np.ndarray
) -> float:
    """Fill ``packed`` by searching the table for every element; gives the squared error."""
    start, sse = 0, 0.0
    for window in recut(request.source.windows(), RUN):
        stop = start + packed_nbytes(window.size, nbits)
        sse = encode_single(frozen(window), lut, used, nbits, packed[start:stop], sse)
        start = stop
    return float(sse)
