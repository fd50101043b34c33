"""Weight files that something else writes to while they are read: one line, and no loop leaves its arrays."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from mil_palettize.algorithms import distribution
from mil_palettize.algorithms.compiled.assignment import encode_single
from mil_palettize.algorithms.source import WINDOW, ArraySource, WatchedSource
from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.encoding.encoder import Task
from mil_palettize.errors import BlobError
from mil_palettize.expressions.packed import packed_nbytes
from mil_palettize.program.forms import FORMS

TYPED = FORMS["CoreML8"]
assert TYPED is not None
LARGE = (1 << 20) + 64  # elements
FEW = 256  # different float32 values up to which they are counted; more are described in cells, in two passes


class ChangingSource(ArraySource):
    """Of other values from pass number ``steady`` on."""

    def __init__(self, array: np.ndarray, later: np.ndarray, steady: int) -> None:
        super().__init__("w", array)
        self.__dict__.update(later=later, steady=steady, passes=0)

    def read(self) -> np.ndarray:
        self.__dict__["passes"] += 1
        changed = self.__dict__["passes"] > self.__dict__["steady"]
        return self.__dict__["later"] if changed else self.array

    def windows(self) -> Iterator[np.ndarray]:
        flat = self.read()
        for start in range(0, flat.size, WINDOW):
            yield flat.reshape(-1)[start : start + WINDOW]


def normal(size: int, dtype: type) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1, size)).astype(dtype)


def anything(size: int, dtype: type) -> np.ndarray:
    return (
        np.random.default_rng(1).integers(0, 256, size * np.dtype(dtype).itemsize, np.uint8).view(dtype).reshape(1, -1)
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("size", [5000, LARGE])
@pytest.mark.parametrize("nbits", [1, 8])
def test_other_bytes_in_a_later_pass(dtype: type, size: int, nbits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if size == LARGE:
        monkeypatch.setattr(distribution, "DISTINCT", FEW)
    specification = PaletteSpecification("kmeans", nbits, (nbits,))
    found = 0
    for steady in (1, 2, 3):
        source = ChangingSource(normal(size, dtype), anything(size, dtype), steady)
        try:
            Task(source, specification, TYPED)()
        except BlobError as error:
            found += "'w' was changed while it was read" in str(error)
    assert found >= 1 + (dtype is np.float32 and size == LARGE)


def test_cells_of_values_that_were_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buckets that were empty have no cells: what falls into them later must not be written anywhere."""
    monkeypatch.setattr(distribution, "DISTINCT", FEW)
    array = np.full((1, LARGE), 1e-3, np.float32)
    array[0, :600] = np.linspace(1e-3, 2e-3, 600)
    source = ChangingSource(array, np.full((1, LARGE), 3e38, np.float32), 2)  # few values, counting, then the cells
    with pytest.raises(BlobError, match="changed while it was read"):
        distribution.describe(WatchedSource(source))
    assert source.__dict__["passes"] == 3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("used", [1, 2, 16])
def test_indices_stay_within_the_table_whatever_the_value(value: float, used: int) -> None:
    lut = np.linspace(-1, 1, 16)
    lut[used:] = lut[used - 1]
    window = np.full(64, value, np.float32)
    packed = np.full(packed_nbytes(64, 8), 255, np.uint8)
    window.flags.writeable = False
    encode_single(window, lut, used, 8, packed, 0.0)
    assert (packed < used).all()


def test_passes_that_agree() -> None:
    array = normal(5001, np.float16)
    watched = WatchedSource(ArraySource("w", array))
    for _ in range(2):
        assert np.array_equal(np.concatenate(list(watched.windows())), array[0])
    assert np.array_equal(watched.read(), array)
    assert np.array_equal(watched.part(5, 9), array[0, 5:9])


def test_one_bit_between_two_passes() -> None:
    array = normal(5001, np.float16)
    later = array.copy()
    later.view(np.uint16)[0, 5000] ^= 1
    watched = WatchedSource(ChangingSource(array, later, 1))
    list(watched.windows())
    with pytest.raises(BlobError, match="changed while it was read"):
        list(watched.windows())
