"""What a quantized table can hold, and the scales that are tried for it, each by its definition."""

from __future__ import annotations

import numpy as np
import pytest

from mil_palettize.algorithms.quantized_grid import Grid, UnquantizableError, exact_grid, proposed, stored
from mil_palettize.algorithms.scales import least_squares_scales, stored_scales

DTYPES = (np.dtype(np.float16), np.dtype(np.float32))
KINDS = ("int8", "uint8")


def every(grid: Grid) -> dict[int, float]:
    """Code -> value, as the op computes it; those that are finite."""
    limits = np.iinfo(grid.kind)
    found = {}
    with np.errstate(over="ignore"):
        for code in range(limits.min, limits.max + 1):
            value = float(np.array((code - grid.zero) * grid.scale).astype(grid.dtype))
            if np.isfinite(value):
                found[code] = value
    return found


GRIDS = [
    Grid(kind, dtype, scale, zero)
    for dtype in DTYPES
    for kind, zero in (("int8", 0), ("uint8", 0), ("uint8", 77))
    for scale in (0.25, float(np.float16(0.0137)))
] + [Grid("int8", DTYPES[0], 1000.0), Grid("uint8", DTYPES[0], 600.0, 130)]


@pytest.mark.parametrize("grid", GRIDS)
def test_values_and_the_nearest_of_them(grid: Grid) -> None:
    values = every(grid)
    assert grid.codes.tolist() == list(values)
    assert grid.values.tolist() == list(values.values())
    assert np.array_equal(grid.decode(grid.codes), grid.values)
    assert not np.signbit(grid.decode(np.array([grid.zero]))[0])
    between = [(a + b) / 2 for a, b in zip(grid.values, grid.values[1:], strict=False)]
    within = np.random.default_rng(0).uniform(-1.2, 1.2, 200) * grid.values.max()
    x = np.array([*grid.values, *between, *within, -1e9, 1e9])
    wanted = [min(values, key=lambda code, at=at: (abs(values[code] - at), code)) for at in x]
    assert grid.nearest(x).tolist() == wanted


def test_tables_are_stored_with_a_scale_of_their_own() -> None:
    codes = np.random.default_rng(0).integers(0, 200, (3, 1, 4, 1))
    for kind in KINDS:
        zeros = [0, 0, 0] if kind == "int8" else [3, 0, 90]
        grids = [Grid(kind, DTYPES[0], 0.5 * (g + 1), zero) for g, zero in enumerate(zeros)]
        held = stored(grids, codes - 100 if kind == "int8" else codes)
        assert held.data.dtype == kind
        assert held.scale.dtype == np.float16
        assert held.scale.shape == (3, 1, 1, 1)
        assert (held.offset is None) == (kind == "int8")
        wanted = [grid.decode(held.data.decode()[g].astype(np.int64)) for g, grid in enumerate(grids)]
        assert np.array_equal(held.decode(), np.stack(wanted))


@pytest.mark.parametrize("zero", [0, 40])
def test_the_refitted_scale_is_that_of_least_squares(zero: int) -> None:
    rng = np.random.default_rng(zero)
    grid = Grid("uint8", DTYPES[1], 0.5, zero)
    codes, masses = rng.choice(256, 8, replace=False), rng.random(8) + 0.1
    means = (codes - zero) * 0.3 + 0.2 * rng.standard_normal(8)
    found = grid.refitted(codes, means, masses)
    assert (found.kind, found.dtype, found.zero) == (grid.kind, grid.dtype, zero)

    def error(scale: float) -> float:
        return float(np.sum(masses * np.square((codes - zero) * scale - means)))

    assert all(error(found.scale) < error(found.scale * factor) for factor in (1 - 1e-5, 1 + 1e-5))
    assert found.scale == float(np.float32(found.scale))
    assert grid.refitted(codes, -means, masses) == grid  # whose scale would be negative
    assert grid.refitted(np.full(3, zero), np.ones(3), np.ones(3)) == grid  # where nothing tells


def spanning(kind: str, dtype: np.dtype, entries: np.ndarray) -> Grid:
    """As rounding a table afterwards has it."""
    low, high = min(entries.min(), 0.0), max(entries.max(), 0.0)
    scale = float(np.array((high - low) / 255 if kind == "uint8" else max(-low, high) / 127).astype(dtype))
    return Grid(kind, dtype, scale, round(-low / scale) if kind == "uint8" else 0)


def left(grid: Grid, entries: np.ndarray, masses: np.ndarray) -> float:
    """Of entries at the nearest multiple of the scale, before that is rounded to a float."""
    limits = np.iinfo(grid.kind)
    steps = np.clip(np.rint(entries / grid.scale), limits.min - grid.zero, limits.max - grid.zero)
    return float(np.sum(masses * np.square(entries - steps * grid.scale)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("low", "high"), [(-3.0, 5.0), (1.0, 2.0), (-2.0, -1.0), (-7.0, 0.5)])
@pytest.mark.parametrize(("count", "tried"), [(16, 1024), (256, 1024), (5000, 312), (300, 65), (1 << 20, 1024)])
def test_what_is_tried(kind: str, dtype: np.dtype, low: float, high: float, count: int, tried: int) -> None:
    """First the grid that spans the entries, then others of half to twice its scale by what they leave of them."""
    rng = np.random.default_rng(0)
    entries = np.sort(rng.uniform(low, high, 16)).astype(dtype).astype(np.float64)
    masses = rng.random(16) + 0.1
    first, *others = proposed(kind, dtype, entries, masses, count)
    assert first == spanning(kind, dtype, entries)
    assert len({*others, first}) == 1 + len(others)
    assert all(grid.scale == float(dtype.type(grid.scale)) for grid in others)
    span = max(entries.max(), 0.0) - min(entries.min(), 0.0)
    span = span / 255 if kind == "uint8" else np.abs(entries).max() / 127
    scales = {float(scale) for scale in (span * np.geomspace(0.5, 2.0, tried)).astype(dtype)}
    assert {grid.scale for grid in others} <= scales
    losses = [left(grid, entries, masses) for grid in others]
    assert np.all(np.diff(losses) >= -1e-12 * losses[-1])
    if kind == "int8":
        best = sorted((left(Grid(kind, dtype, scale), entries, masses), scale) for scale in scales)[:15]
        assert losses == pytest.approx([loss for loss, scale in best if scale != first.scale], rel=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
def test_exact_grids(dtype: np.dtype) -> None:
    for kind, codes, zero in (
        ("int8", [-128, 3, 127], 0),
        ("int8", [-128, 1], 0),
        ("uint8", [0, 200, 255], 90),
        ("uint8", [10, 20], 0),
    ):
        entries = Grid(kind, dtype, float(dtype.type(0.0123)), zero).decode(np.array(codes))
        grid = exact_grid("w", kind, dtype, entries)
        assert np.array_equal(grid.decode(grid.nearest(entries)), entries)
    assert exact_grid("w", "int8", dtype, np.zeros(2)) == Grid("int8", dtype, 1.0)


@pytest.mark.parametrize(
    ("kind", "entries"), [("int8", [1 / 128, 1.0]), ("uint8", [-1.0, 1 / 256]), ("int8", [1.0, np.pi])]
)
def test_what_no_grid_holds(kind: str, entries: list[float]) -> None:
    """128 steps up, 257 steps in all, and what is no number of steps."""
    held = np.array(entries, np.float32).astype(np.float64)
    with pytest.raises(UnquantizableError, match=f"^weight 'w' has 2 distinct values that no {kind} look-up table"):
        exact_grid("w", kind, DTYPES[1], held)


class Fit:
    def __init__(self, cross: list[float], power: list[float]) -> None:
        self.cross, self.power = np.array(cross), np.array(power)


def test_scales_of_channels() -> None:
    half = np.dtype(np.float16)
    tiny, largest = float(np.finfo(half).tiny), float(np.finfo(half).max)
    found = stored_scales(np.array([0.0, tiny / 2, tiny, 1 / 3, 65500.0, 1e9]), half)
    assert found.tolist() == [tiny, tiny, tiny, float(np.float16(1 / 3)), 65504.0, largest]
    one = Fit([1.0, 2.0, -1.0, 0.0, 5.0], [4.0, 1.0, 2.0, 0.0, 0.0])
    fits = [one, Fit([2.0, 1.0, 0.5, 0.0, 1.0], [2.0, 1.0, 1.0, 0.0, 0.0])]
    before = np.array([9.0, 9.0, 8.0, 7.0, 6.0])
    assert least_squares_scales(fits, before, half).tolist() == [0.5, 1.5, 8.0, 7.0, 6.0]
