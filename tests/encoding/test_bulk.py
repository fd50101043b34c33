"""The SNR of most elements, told by a palette alone, against the elements themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mil_palettize.algorithms.making import ArraySource, Palette, make_palette
from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.encoding.bulk import _counts, bulk_db
from mil_palettize.expressions.packed import Packed
from mil_palettize.expressions.weight_expr import Lut

RANDOM = np.random.default_rng(0)
KINDS = {
    "normal": RANDOM.standard_normal(20_000),
    "laplace": RANDOM.laplace(size=20_000),
    "heavy": RANDOM.standard_t(2, 20_000).clip(-60, 60),
    "few large": RANDOM.standard_normal(20_000) * np.where(RANDOM.uniform(size=20_000) < 0.002, 40.0, 1.0),
}


def palette(values: np.ndarray, nbits: int, mode: str = "kmeans") -> Palette:
    source = ArraySource("w", values.astype(np.float32).reshape(100, -1))
    return make_palette(source, PaletteSpecification(mode, nbits, (nbits,)))


def told(made: Palette) -> float | None:
    return bulk_db(made.expr, made.sse)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nbits", [4, 8])
def test_of_nine_tenths_of_the_elements(kind: str, nbits: int) -> None:
    values = KINDS[kind]
    made = palette(values, nbits)
    sizes = np.abs(values)
    bulk = (sizes > 0) & (sizes <= np.quantile(sizes[sizes > 0], 0.9))
    error = values[bulk] - made.expr.decode().reshape(-1)[bulk]
    found = told(made)
    assert found is not None
    assert found == pytest.approx(10 * math.log10(np.square(values[bulk]).sum() / np.square(error).sum()), abs=2.0)


def test_what_has_none() -> None:
    """Tables of which there are several, and one number only."""
    values = KINDS["normal"].astype(np.float32).reshape(100, -1)
    grouped = PaletteSpecification("kmeans", 4, (4,), axis=0, group_size=50)
    assert told(make_palette(ArraySource("w", values), grouped)) is None
    assert told(palette(np.full(20_000, 2.0), 1)) is None
    assert told(palette(np.round(KINDS["normal"]), 4)) is None  # lossless


def test_elements_that_became_zero() -> None:
    """Nearly all are lost between two that are far out, which the error of the whole hides."""
    values = KINDS["normal"].copy()
    values[:2] = 4000.0, -3000.0
    made = palette(values, 3, "uniform")
    values -= made.expr.decode().reshape(-1)
    assert np.count_nonzero(made.expr.decode()) < 20_000 / 2
    found = told(made)
    assert found is not None
    assert found < 3.0


def test_zeros_that_were_zeros_do_not_count() -> None:
    pruned = np.where(RANDOM.uniform(size=20_000) < 0.7, 0.0, KINDS["normal"])
    made, dense = palette(pruned, 4), palette(pruned[pruned != 0.0][:5_000], 4)
    found, alone = told(made), told(dense)
    assert found is not None
    assert alone is not None
    assert found == pytest.approx(alone, abs=2.0)


def by_elements(entries: np.ndarray, indices: np.ndarray, lost: float) -> float:
    """Element by element: each as far from its entry as one that lies evenly up to the nearer border is on average,
    those at zero by what is ``lost`` in all; of the smallest nine tenths, the last one in part."""
    zeros = int(np.count_nonzero(entries[indices] == 0.0))
    told = []
    for index in indices:
        entry = float(entries[index])
        near = min(abs(entry - float(other)) for other in entries if other != entry)
        error = (near / 2) ** 2 / 3
        told.append((abs(entry), entry**2, error) if entry else (0.0, lost / zeros, lost / zeros))
    left, signal, noise = 0.9 * len(told), 0.0, 0.0
    for _, own, error in sorted(told):
        part = min(max(left, 0.0), 1.0)
        left, signal, noise = left - 1, signal + part * own, noise + part * error
    return 10 * math.log10(signal / noise)


@pytest.mark.parametrize("seed", range(6))
def test_of_few_elements(seed: int) -> None:
    """Entries of one element, of none and of several; of which some were lost where an entry is zero."""
    rng = np.random.default_rng(seed)
    table = np.sort(rng.choice(np.arange(1, 40), 8, replace=False) * rng.choice([-1.0, 1.0], 8)).astype(np.float32)
    if seed % 2:
        table[np.abs(table).argmin()] = 0.0
        table.sort()
    indices = rng.integers(0, 8, 13 + seed).astype(np.uint8)
    indices[0] = np.flatnonzero(table == 0.0)[0] if seed % 2 else 0
    counts = np.bincount(indices, minlength=8)
    halves = [min(abs(x - y) for y in table if x != y) / 2 for x in table.astype(float)]
    known = sum((n - 1) * half**2 / 3 for x, n, half in zip(table, counts, halves, strict=True) if n > 1 and x != 0)
    lost = 20.0 * known + 7.0  # most of the error
    found = bulk_db(Lut(Packed.pack(indices, 3), table.reshape(1, 8, 1)), known + lost)
    assert found == pytest.approx(by_elements(table, indices, lost), rel=1e-9)


@pytest.mark.parametrize("nbits", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("size", [1_001, 1_000])
def test_entries_are_counted_in_packed_indices(nbits: int, size: int) -> None:
    values = RANDOM.integers(0, 1 << nbits, size).astype(np.uint8)
    table = np.arange(1 << nbits, dtype=np.float32).reshape(1, -1, 1)
    lut = Lut(Packed.pack(values, nbits), table, None)
    assert np.array_equal(_counts(lut), np.bincount(values, minlength=1 << nbits))
