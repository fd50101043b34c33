"""One contract for every registered algorithm, then what each of them promises by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from made_palettes import make_one

from mil_palettize.algorithms import distribution
from mil_palettize.algorithms.making import (
    ArraySource,
    NonFiniteError,
    Palette,
    TooManyValuesError,
)
from mil_palettize.algorithms.registry import ALGORITHMS
from mil_palettize.errors import AlgorithmError

ALLOWED = (1, 2, 3, 4, 6, 8)
DTYPES = (np.float16, np.float32)


@dataclass(frozen=True)
class SmallWindows(ArraySource):
    """The same values in short read-only pieces."""

    def windows(self) -> Iterator[np.ndarray]:
        flat = self.array.reshape(-1).copy()
        flat.flags.writeable = False
        for start in range(0, flat.size, 192):
            yield flat[start : start + 192]


def nearest_of_quantiles(weight: np.ndarray) -> tuple[list[float], list[int]]:
    """A ``lut_function``: sixteen quantiles, unsorted entries allowed."""
    lut = np.quantile(weight.astype(float), np.linspace(1, 0, 16)).astype(weight.dtype)
    indices = np.abs(weight.reshape(-1, 1).astype(float) - lut.astype(float)).argmin(axis=1)
    return lut.tolist(), indices.tolist()


def make(array: np.ndarray, mode: str, source: type[ArraySource] = ArraySource, **options: Any) -> Palette:
    chooses = mode in ("unique", "custom")
    options.setdefault("nbits", None if chooses else 4)
    if mode == "custom":
        options.setdefault("lut_function", nearest_of_quantiles)
    return make_one(source("layer.weight", array), mode=mode, **options)


def weight_for(mode: str, dtype: type, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    array = rng.standard_normal(shape) * 0.02
    return (np.round(array * 500) / 500 if mode == "unique" else array).astype(dtype)


GROUPINGS = [((37,), None, None), ((24, 35), None, None), ((24, 35), 0, 8), ((24, 35), 1, 7), ((6, 4, 3, 5), 1, 2)]
GROUPINGS += [((6, 4, 3, 5), 3, 1), ((6, 4, 3, 5), -1, 5), ((3, 1, 2), 0, 1)]


@pytest.mark.parametrize("mode", ALGORITHMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "axis", "group_size"), GROUPINGS)
class TestContract:
    def test_shape_and_reported_error(
        self, mode: str, dtype: type, shape: tuple[int, ...], axis: int | None, group_size: int | None
    ) -> None:
        array = weight_for(mode, dtype, shape)
        made = make(array, mode, axis=axis, group_size=group_size)
        decoded = made.expr.decode()
        assert decoded.shape == shape
        assert decoded.dtype == dtype
        groups = [1] * len(shape)
        if axis is not None and group_size is not None:
            groups[axis] = shape[axis] // group_size
        assert made.expr.groups == tuple(groups)
        error = np.sum((array.astype(float) - decoded.astype(float)) ** 2)
        assert made.sse == pytest.approx(error, rel=1e-10, abs=1e-300)
        assert made.signal == pytest.approx(np.sum(array.astype(float) ** 2), rel=1e-12)

    def test_same_bytes_for_any_windows_threads_and_layout(
        self, mode: str, dtype: type, shape: tuple[int, ...], axis: int | None, group_size: int | None
    ) -> None:
        array = weight_for(mode, dtype, shape, 1)
        first = make(array, mode, axis=axis, group_size=group_size)
        with ThreadPoolExecutor(3) as executor:
            second = make(array, mode, SmallWindows, axis=axis, group_size=group_size, pmap=executor.map)
        third = make(np.asfortranarray(array), mode, axis=axis, group_size=group_size)
        for other in (second, third):
            assert first.expr.lut.tobytes() == other.expr.lut.tobytes()
            assert first.expr.indices.data.tobytes() == other.expr.indices.data.tobytes()
            assert (first.sse, first.signal) == (other.sse, other.signal)


@pytest.mark.parametrize("mode", ALGORITHMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "axis", "group_size"), [case for case in GROUPINGS if case[1] is not None])
def test_groups_are_independent_palettes(
    mode: str, dtype: type, shape: tuple[int, ...], axis: int, group_size: int
) -> None:
    array = weight_for(mode, dtype, shape, 2)
    whole = make(array, mode, axis=axis, group_size=group_size).expr.decode()
    parts = np.split(array, shape[axis] // group_size, axis=axis)
    decoded = np.concatenate([make(part, mode).expr.decode() for part in parts], axis=axis)
    assert np.array_equal(whole, decoded)


@pytest.mark.parametrize("mode", ALGORITHMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("group_size", [None, 2])
class TestHardValues:
    def make(self, array: np.ndarray, mode: str, group_size: int | None) -> Palette:
        return make(array, mode, axis=None if group_size is None else 0, group_size=group_size)

    def test_constant(self, mode: str, dtype: type, group_size: int | None) -> None:
        for value in (0.0, -3.5, 65504.0):
            array = np.full((4, 16), value, dtype)
            made = self.make(array, mode, group_size)
            assert np.array_equal(made.expr.decode(), array)
            assert made.sse == 0.0
            if mode != "custom":
                assert not made.expr.indices.unpack().any()

    def test_extremes(self, mode: str, dtype: type, group_size: int | None) -> None:
        info = np.finfo(dtype)
        for scale in (float(info.max), float(info.smallest_subnormal) * 7):
            array = (np.linspace(-1, 1, 64) * scale).astype(dtype).reshape(4, 16)
            made = self.make(array, mode, group_size)
            assert np.isfinite(made.expr.lut).all()
            assert np.isfinite(made.sse)
            assert made.sse < 0.1 * made.signal

    def test_non_finite(self, mode: str, dtype: type, group_size: int | None) -> None:
        array = weight_for(mode, dtype, (4, 64))
        array[0, 3] = array[3, 9] = np.nan
        array[1, 5], array[2, 1], array[2, 2] = np.inf, -np.inf, np.inf
        with pytest.raises(NonFiniteError, match=r"'layer.weight' has 2 NaN and 3 infinite") as caught:
            self.make(array, mode, group_size)
        assert (caught.value.nan, caught.value.inf) == (2, 3)

    @pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
    def test_one_non_finite(self, mode: str, dtype: type, group_size: int | None, value: float) -> None:
        array = weight_for(mode, dtype, (4, 64))
        array[3, 63] = value
        with pytest.raises(NonFiniteError):
            self.make(array, mode, group_size)


@pytest.mark.parametrize("mode", ["kmeans", "unique"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [None, 0])
def test_few_values_are_kept_and_fillers_unused(mode: str, dtype: type, axis: int | None) -> None:
    values = np.array([-2.0, -0.0, 0.0, 1.5, 3.0], dtype)
    array = values[np.random.default_rng(0).integers(0, 5, (4, 40))]
    made = make(array, mode, axis=axis, group_size=None if axis is None else 2)
    assert np.array_equal(made.expr.decode(), array)
    assert made.sse == 0.0
    table = made.expr.lut.reshape(-1, made.expr.lut.shape[-2])
    assert table.shape[1] == (16 if mode == "kmeans" else 4)
    assert np.array_equal(table[0][:4], [-2.0, 0.0, 1.5, 3.0])
    assert not np.signbit(table[:, 1]).any()
    assert np.all(table[:, 4:] == 3.0)
    assert made.expr.indices.unpack().max() == 3


@pytest.mark.parametrize("mode", ["kmeans", "uniform"])
@pytest.mark.parametrize("nbits", ALLOWED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_nearest_entry_ties_to_the_lower(mode: str, nbits: int, dtype: type) -> None:
    """A lattice has many values halfway between two entries."""
    array = (np.random.default_rng(nbits).integers(-300, 300, (32, 40)) / 64).astype(dtype)
    for axis in (None, 0, 1):
        made = make(array, mode, nbits=nbits, axis=axis, group_size=None if axis is None else 8)
        tables = np.broadcast_to(made.expr.lut[..., 0], (*made.expr.groups, 1 << nbits)).astype(float)
        for position in (0, 1):
            tables = np.repeat(tables, array.shape[position] // made.expr.groups[position], axis=position)
        assert np.all(np.diff(made.expr.lut[..., 0], axis=-1) >= 0)
        distances = np.abs(array[..., None].astype(float) - tables)
        assert np.array_equal(made.expr.indices.unpack(), distances.argmin(axis=-1))


def test_uniform_entries() -> None:
    array = np.array([-1.0, 0.3, 5.0, 2.0], np.float32)
    made = make(array, "uniform", nbits=2)
    assert made.expr.lut.reshape(-1).tolist() == [-1.0, 1.0, 3.0, 5.0]
    assert made.expr.indices.unpack().tolist() == [0, 1, 3, 1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_unique_takes_the_bits_of_the_worst_group(dtype: type) -> None:
    array = np.zeros((4, 32), dtype)
    array[3, :17] = np.arange(17)
    assert make(array, "unique").expr.indices.nbits == 6
    grouped = make(array, "unique", axis=0, group_size=1)
    assert grouped.expr.indices.nbits == 6
    assert np.array_equal(grouped.expr.decode(), array)
    assert make(array[:3], "unique", axis=0, group_size=1).expr.indices.nbits == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [None, 0])
def test_unique_limit(dtype: type, axis: int | None) -> None:
    group_size = None if axis is None else 1
    array = np.stack([np.arange(256), np.arange(256)]).astype(dtype)
    assert np.array_equal(make(array, "unique", axis=axis, group_size=group_size).expr.decode(), array)
    array = np.stack([np.arange(257), np.arange(257)]).astype(dtype)
    with pytest.raises(TooManyValuesError, match="more than 256 distinct values in one look-up table") as caught:
        make(array, "unique", axis=axis, group_size=group_size)
    assert caught.value.limit == 256


class TestLargeFloat32:
    """The paths of weights too large to sort, reached by lowering the limit."""

    @pytest.fixture(autouse=True)
    def _small_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(distribution, "DISTINCT", 1000)
        monkeypatch.setattr("mil_palettize.algorithms.scalar.grouped.DISTINCT", 1000)
        monkeypatch.setattr("mil_palettize.algorithms.scalar.grouped._CHUNK", 1000)

    @pytest.mark.parametrize("axis", [None, 0, 1])
    def test_error_is_the_decoded_one(self, axis: int | None) -> None:
        array = weight_for("kmeans", np.float32, (64, 64))
        array[3, 3], array[40, 40] = 1e30, -1e-40
        for mode in ("kmeans", "uniform"):
            made = make(array, mode, axis=axis, group_size=None if axis is None else 32)
            error = np.sum((array.astype(float) - made.expr.decode().astype(float)) ** 2)
            assert made.sse == pytest.approx(error, rel=1e-10)
        assert array.max() in made.expr.lut

    @pytest.mark.parametrize("axis", [None, 0])
    def test_few_values_stay_exact(self, axis: int | None) -> None:
        values = np.concatenate([1 + np.arange(128) * 2.0**-23, -np.geomspace(1e-40, 1e38, 128)])
        array = np.random.default_rng(0).permutation(np.tile(values, 32)).astype(np.float32).reshape(64, -1)
        made = make(array, "unique", axis=axis, group_size=None if axis is None else 32)
        assert np.array_equal(made.expr.decode(), array)
        array[0, 0] = 7.0
        with pytest.raises(TooManyValuesError):
            make(array, "unique", axis=axis, group_size=None if axis is None else 32)

    def test_one_non_finite_is_counted_over_the_whole_weight(self) -> None:
        array = weight_for("kmeans", np.float32, (64, 64))
        array[0, 0] = array[63, 63] = np.nan
        array[40, 1] = -np.inf
        for axis in (None, 0):
            with pytest.raises(NonFiniteError, match="2 NaN and 1 infinite"):
                make(array, "kmeans", axis=axis, group_size=None if axis is None else 32)

    def test_windows_do_not_matter(self) -> None:
        array = weight_for("kmeans", np.float32, (64, 64), 4)
        first, second = make(array, "kmeans"), make(array, "kmeans", SmallWindows)
        assert first.expr.lut.tobytes() == second.expr.lut.tobytes()
        assert (first.sse, first.signal) == (second.sse, second.signal)

    def test_the_extremes_are_in_the_distribution(self) -> None:
        array = weight_for("kmeans", np.float32, (64, 64), 5)
        seen = distribution.describe(ArraySource("w", array))
        assert not seen.exact
        assert (seen.low, seen.high) == (array.min(), array.max())
        assert seen.weights.sum() == array.size == seen.size
        assert np.all(np.diff(seen.values) > 0)
        assert np.all(seen.weights > 0)


CUSTOM_FAULTS: list[tuple[Callable[[np.ndarray], Any], str]] = [
    (lambda w: None, "returned NoneType; return a pair"),
    (lambda w: ([0.0], [0], 1), "returned a tuple of length 3; return a pair"),
    (lambda w: ([[0.0, 1.0]], np.zeros(w.size, int)), r"a lut of float64\[1, 2\]; it must be real numbers"),
    (lambda w: ([[0.0], [1.0, 2.0]], np.zeros(w.size, int)), "returned entries that are not an array"),
    (lambda w: (["a"], np.zeros(w.size, int)), "it must be real numbers in one dimension"),
    (lambda w: ([1j], np.zeros(w.size, int)), "it must be real numbers in one dimension"),
    (lambda w: (np.empty(0), np.zeros(w.size, int)), "a lut of 0 entries; it may have 1 to 256"),
    (lambda w: (np.zeros(257), np.zeros(w.size, int)), "a lut of 257 entries; it may have 1 to 256"),
    (lambda w: ([0.0, np.nan], np.zeros(w.size, int)), "entry 1 = nan, which is not finite as float16"),
    (lambda w: ([1.0, 0.0, 1e5], np.zeros(w.size, int)), "entry 2 = 100000.0, which is not finite as float16"),
    (lambda w: ([0.0], np.zeros(w.size)), "indices of float64; they must be integers"),
    (lambda w: ([0.0], np.zeros(w.size, bool)), "indices of bool; they must be integers"),
    (lambda w: ([0.0], np.zeros(w.size - 1, int)), "returned 63 indices for 64 elements"),
    (lambda w: ([0.0, 1.0], np.full(w.size, 2)), "index 2 for a lut of 2 entries"),
    (lambda w: ([0.0, 1.0], np.full(w.size, -1)), "index -1 for a lut of 2 entries"),
]


@pytest.mark.parametrize(("function", "message"), CUSTOM_FAULTS)
def test_custom_faults_are_named(function: Callable[[np.ndarray], Any], message: str) -> None:
    array = np.arange(64, dtype=np.float16).reshape(8, 8)
    with pytest.raises(AlgorithmError, match=f"weight 'layer.weight': lut_function .*{message}"):
        make(array, "custom", lut_function=function)


def test_custom_exceptions_are_chained() -> None:
    def fails(weight: np.ndarray) -> None:
        raise KeyError("codebook")

    with pytest.raises(AlgorithmError, match=r"'layer.weight': lut_function raised KeyError: 'codebook'") as caught:
        make(np.zeros((4, 4), np.float32), "custom", lut_function=fails)
    assert isinstance(caught.value.__cause__, KeyError)


def test_custom_tables_are_kept_in_order_and_padded_to_the_widest_group() -> None:
    seen = []

    def function(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen.append(weight.copy())
        assert weight.flags.c_contiguous
        weight += 100  # its own copy
        entries = 5 if len(seen) == 2 else 2
        return np.arange(entries, 0, -1), np.arange(weight.size) % entries

    array = np.arange(24, dtype=np.float32).reshape(2, 6, 2)
    before = array.copy()
    made = make(array, "custom", lut_function=function, axis=1, group_size=2)
    assert np.array_equal(array, before)
    assert [part.tolist() for part in seen] == [array[:, i : i + 2].tolist() for i in (0, 2, 4)]
    assert made.expr.indices.nbits == 3
    assert made.expr.lut.reshape(3, 8).tolist() == [[2, 1] + [1] * 6, [5, 4, 3, 2, 1, 1, 1, 1], [2, 1] + [1] * 6]
    assert made.expr.decode()[:, 2:4].reshape(-1).tolist() == [5, 4, 3, 2, 1, 5, 4, 3]


def test_custom_calls_never_overlap() -> None:
    inside = []

    def function(weight: np.ndarray) -> tuple[list[float], np.ndarray]:
        inside.append(1)
        overlapping = len(inside) > 1
        threading.Event().wait(0.005)
        inside.pop()
        assert not overlapping
        return [0.0], np.zeros(weight.size, int)

    with ThreadPoolExecutor(4) as executor:
        list(executor.map(lambda _: make(np.zeros(8, np.float32), "custom", lut_function=function), range(6)))


REQUEST_FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"mode": "median", "nbits": 4}, "no palettization mode 'median'; use one of .*'kmeans'"),
    ({"mode": "kmeans", "nbits": None}, "mode 'kmeans' with nbits None; use one of"),
    ({"mode": "kmeans", "nbits": 5}, "mode 'kmeans' with nbits 5; use one of"),
    ({"mode": "unique", "nbits": 4}, "mode 'unique' chooses nbits itself"),
    ({"mode": "custom", "nbits": None}, "mode 'custom' needs a lut_function"),
    ({"mode": "kmeans", "nbits": 4, "axis": 2, "group_size": 1}, "has 2 axes; axis 2"),
    ({"mode": "kmeans", "nbits": 4, "axis": 1, "group_size": 3}, "4 channels along axis 1 cannot be split"),
]


@pytest.mark.parametrize(("request_", "message"), REQUEST_FAULTS)
def test_wrong_requests(request_: dict[str, Any], message: str) -> None:
    source = ArraySource("layer.weight", np.zeros((4, 4), np.float16))
    with pytest.raises(AlgorithmError, match=f"'layer.weight'.*{message}"):
        make_one(source, **request_)


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(AlgorithmError, match=r"'layer.weight' is int16; a palette is made of float16, float32, int8"):
        make(np.zeros((4, 4), np.int16), "kmeans")
