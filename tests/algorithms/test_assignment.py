"""Packing and the nearest entry, against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
from made_palettes import make_one

from mil_palettize.algorithms.compiled.assignment import encode_single, pack_indices
from mil_palettize.algorithms.making import ArraySource
from mil_palettize.algorithms.source import frozen
from mil_palettize.expressions.legal_nbits import LEGAL_NBITS
from mil_palettize.expressions.weight_expr import Packed, packed_nbytes


@pytest.mark.parametrize("nbits", LEGAL_NBITS)
def test_packing_is_least_significant_bit_first(nbits: int) -> None:
    rng = np.random.default_rng(nbits)
    for size in [*range(1, 40), 4095, 4096, 4097, 9001]:
        indices = rng.integers(0, 1 << nbits, size).astype(np.uint8)
        packed = np.full(packed_nbytes(size, nbits), 0xAA, np.uint8)
        pack_indices(indices, nbits, packed)
        assert packed.tobytes() == Packed.pack(indices, nbits).data.tobytes()


@pytest.mark.parametrize("nbits", LEGAL_NBITS)
@pytest.mark.parametrize("used_share", [0.3, 1.0])
@pytest.mark.parametrize("spread", ["even", "outlier", "geometric", "denormal"])
def test_float32_search_is_exact_next_to_midpoints(nbits: int, used_share: float, spread: str) -> None:
    rng = np.random.default_rng(nbits)
    used = max(1, int((1 << nbits) * used_share))
    entries = rng.standard_normal(used).astype(np.float32)
    if spread == "outlier":
        entries[0] = 1e20
    elif spread == "geometric":
        entries *= (10.0 ** rng.uniform(-40, 38, used)).astype(np.float32)
    elif spread == "denormal":
        entries *= np.float32(1e-44)
    lut = np.unique(entries).astype(float)
    used = len(lut)
    lut = np.concatenate([lut, np.full((1 << nbits) - used, lut[-1])])
    middles = ((lut[1:used] + lut[: used - 1]) / 2).astype(np.float32)
    inf = np.float32(np.inf)
    near = [middles, np.nextafter(middles, inf), np.nextafter(middles, -inf), lut.astype(np.float32)]
    values = np.concatenate([*near, rng.standard_normal(5000).astype(np.float32)])
    if spread != "even":
        values = np.concatenate([*near, rng.choice(lut, 1000) * rng.standard_normal(1000), [3.4e38, -3.4e38, 0.0]])
        values = np.clip(values, -3.4e38, 3.4e38).astype(np.float32)
    packed = np.empty(packed_nbytes(values.size, nbits), np.uint8)
    error = encode_single(frozen(values), lut, used, nbits, packed, 0.0)
    found = Packed(packed, nbits, values.shape).unpack()
    distances = np.abs(values[:, None].astype(float) - lut)
    if spread == "even":  # elsewhere distances are equal that are not
        assert np.array_equal(found, distances.argmin(axis=1))
    assert np.array_equal(found, np.searchsorted((lut[1:used] + lut[: used - 1]) / 2, values.astype(float)))
    assert error == pytest.approx(np.sum(distances.min(axis=1) ** 2), rel=1e-12)


@pytest.mark.parametrize("nbits", LEGAL_NBITS)
def test_every_float16_finds_its_nearest_entry(nbits: int) -> None:
    """All finite patterns at once: magnitudes to 65504 must not overflow on the way."""
    array = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    array = array[np.isfinite(array)]
    made = make_one(ArraySource("w", array), mode="kmeans", nbits=nbits)
    entries = made.expr.lut.reshape(-1).astype(float)
    distances = np.abs(array[:, None].astype(float) - entries)
    assert np.array_equal(made.expr.indices.unpack(), distances.argmin(axis=1))
    assert made.sse == pytest.approx(np.sum(distances.min(axis=1) ** 2), rel=1e-12)
