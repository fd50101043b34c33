"""Palettes by a user's function: masked, scaled, weighted, of whole numbers, of quantized tables."""

from __future__ import annotations

import numpy as np

from mil_palettize.algorithms.array_palette import one_at_a_time
from mil_palettize.algorithms.palette import ArrayAlgorithm, Palette, Request
from mil_palettize.algorithms.quantized_grid import Grid, proposed
from mil_palettize.algorithms.scalar.counted_elements import Weight, read_weight
from mil_palettize.algorithms.scalar.masked_scaled import Tables, built
from mil_palettize.algorithms.scalar.scaled_assignment import fit


def shaped_array_palette(algorithm: ArrayAlgorithm, request: Request) -> Palette:
    """One table per group, its entries as the function has them, or the nearest that a quantized table holds.

    The function sees each group divided by the scales; of a masked weight the values alone, 1-D; whole numbers as
    int32. It is not called where a mask leaves nothing. Raises ``NonFiniteError`` and what the algorithm raises.
    """
    weight = read_weight(request)
    scales = None if request.scale_axis is None else weight.first_scales()
    rows, codes = [], []
    with one_at_a_time:
        for group in range(weight.groups):
            seen = _seen(request, weight, scales, group)
            row, chosen = algorithm.codes(seen, request) if seen.size else (np.zeros(1), np.empty(0, np.int64))
            rows.append(row.astype(np.float64))
            codes.append(chosen.astype(np.uint8))
    nbits = request.nbits_for(max(len(row) for row in rows))
    tables = _tables(request, nbits, rows, codes)
    divisors = np.ones(1) if scales is None else scales
    half = request.source.dtype == np.float16
    indices = np.zeros(weight.array.shape, np.uint8)
    fits = []
    for group, chosen in enumerate(codes):
        fits.append(fit(weight.elements(group), divisors, tables.values[group], 0, half, chosen))
        weight.put(indices, group, chosen)
    return built(request, weight, indices, tables.part(nbits), nbits, scales, fits)


def _seen(request: Request, weight: Weight, scales: np.ndarray | None, group: int) -> np.ndarray:
    """What the function gets: an array of its own."""
    array = weight.array
    part = weight.part(array, group) if request.mask is None else weight.chosen(array, group)
    if scales is not None:
        spread = weight.spread(scales)
        divisors = weight.part(spread, group) if request.mask is None else weight.chosen(spread, group)
        part = part / divisors
    return np.array(part, np.int32 if request.whole_numbers else request.source.dtype, order="C")


def _tables(request: Request, nbits: int, rows: list[np.ndarray], codes: list[np.ndarray]) -> Tables:
    values = np.stack([np.pad(row, (0, (1 << nbits) - len(row)), mode="edge") for row in rows])
    used = np.array([len(row) for row in rows])
    if request.lut_dtype is None:
        return Tables(values, used, request)
    grids = [_grid(request, row, chosen) for row, chosen in zip(values, codes, strict=True)]
    snapped = np.stack([grid.nearest(row) for grid, row in zip(grids, values, strict=True)])
    entries = np.stack([grid.decode(row) for grid, row in zip(grids, snapped, strict=True)])
    return Tables(entries, used, request, snapped, grids)


def _grid(request: Request, row: np.ndarray, chosen: np.ndarray) -> Grid:
    """The grid whose values are nearest to the entries of a table, by how many indices each has."""
    assert request.lut_dtype is not None
    masses = np.bincount(chosen, minlength=len(row)).astype(np.float64)

    def loss(grid: Grid) -> float:
        return float(np.sum(masses * np.square(grid.decode(grid.nearest(row)) - row)))

    return min(proposed(request.lut_dtype, request.source.dtype, row, masses, len(chosen)), key=loss)
