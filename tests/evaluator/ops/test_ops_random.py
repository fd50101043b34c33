"""Random ops: shapes, ranges, moments, and that seeds give the same numbers again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from evaluator import evaluated, mb  # noqa: E402

MANY = np.array([40, 500], np.int32)
NAMES = ["random_bernoulli", "random_normal", "random_uniform"]


def drawn(name: str, shape: np.ndarray = MANY, **options: Any) -> np.ndarray:
    """The op of a shape that is known at run time only."""
    return evaluated(lambda shape: getattr(mb, name)(shape=shape, **options), shape)[0]


def categories(x: np.ndarray, **options: Any) -> np.ndarray:
    return evaluated(lambda x: mb.random_categorical(x=x, **options), x.astype(np.float32))[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 1, 3, 1, 2)], ids=str)
def test_shapes(name: str, shape: tuple[int, ...]) -> None:
    def build(x: Any) -> Any:
        return mb.mul(x=x, y=np.float32(1)), getattr(mb, name)(shape=np.array(shape, np.int32))

    for found in (drawn(name, np.array(shape, np.int32)), evaluated(build, np.zeros(1, np.float32))[1]):
        assert found.shape == shape
        assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("options", "mean"), [({}, 0.5), ({"prob": np.float32(0.2)}, 0.2), ({"prob": np.float16(1)}, 1)]
)
def test_bernoulli(options: dict[str, Any], mean: float) -> None:
    found = drawn("random_bernoulli", seed=1, **options)
    assert set(np.unique(found)) <= {0.0, 1.0}
    assert found.mean() == pytest.approx(mean, abs=0.02)


@pytest.mark.parametrize(("mean", "stddev"), [(0.0, 1.0), (-3.0, 0.25)])
def test_normal(mean: float, stddev: float) -> None:
    given = {} if stddev == 1.0 else {"mean": np.float32(mean), "stddev": np.float32(stddev)}
    scaled = (drawn("random_normal", seed=2, **given).astype(np.float64) - mean) / stddev
    moments = [np.mean(scaled**power) for power in (1, 2, 3, 4)]
    np.testing.assert_allclose(moments, [0, 1, 0, 3], atol=0.15)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-2.0, 6.0)])
def test_uniform(low: float, high: float) -> None:
    given = {} if high == 1.0 else {"low": np.float32(low), "high": np.float32(high)}
    found = drawn("random_uniform", seed=3, **given)
    assert low <= found.min()
    assert found.max() < high
    np.testing.assert_allclose(np.histogram(found, 8, (low, high))[0] / found.size, np.full(8, 0.125), atol=0.01)


def test_uniform_of_one_value() -> None:
    np.testing.assert_array_equal(drawn("random_uniform", low=np.float32(2), high=np.float32(2)), np.full(MANY, 2))


@pytest.mark.parametrize("name", NAMES)
def test_seeds(name: str) -> None:
    first = drawn(name, seed=0)
    np.testing.assert_array_equal(first, drawn(name, seed=0))
    assert (first != drawn(name, seed=1)).any()


@pytest.mark.parametrize("name", NAMES)
def test_without_a_seed_torchs_own_counts(name: str) -> None:
    torch.manual_seed(5)
    first, second = drawn(name), drawn(name)
    assert (first != second).any()
    torch.manual_seed(5)
    np.testing.assert_array_equal(first, drawn(name))


@pytest.mark.parametrize("mode", ["logits", "probs"])
def test_categorical(mode: str) -> None:
    probabilities = np.array([[[0.1, 0.2, 0.7], [0.5, 0.5, 0.0]]])
    with np.errstate(divide="ignore"):
        x = np.log(probabilities) + 3 if mode == "logits" else probabilities
    found = categories(x, mode=mode, size=20000, seed=4)
    assert found.shape == (1, 2, 20000)
    assert found.dtype == np.float32
    shares = [[np.mean(found[0, row] == category) for category in range(3)] for row in range(2)]
    np.testing.assert_allclose(shares, probabilities[0], atol=0.02)


@pytest.mark.parametrize("shape", [(4,), (2, 4), (2, 3, 4)], ids=str)
def test_categorical_shapes(shape: tuple[int, ...]) -> None:
    """One sample of logits unless told otherwise, and a certain one here."""
    certain = np.random.default_rng(0).integers(0, 4, shape[:-1])
    found = categories(1000.0 * (np.arange(4) == certain[..., None]))
    np.testing.assert_array_equal(found, certain[..., None])


def test_categorical_seeds() -> None:
    x = np.zeros((3, 5))
    first = categories(x, size=50, seed=7)
    np.testing.assert_array_equal(first, categories(x, size=50, seed=7))
    assert (first != categories(x, size=50, seed=8)).any()
