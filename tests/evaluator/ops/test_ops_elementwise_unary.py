"""Elementwise ops of one tensor against coremltools' own inference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import coremltools as ct  # noqa: E402
from evaluator import evaluated, inferred, mb, same  # noqa: E402

from mil_palettize.torch.evaluator.ops import OPS  # noqa: E402

INT32 = np.iinfo(np.int32)
DOMAINS = {
    **dict.fromkeys(("acos", "asin", "atanh"), (-0.95, 0.95)),
    **dict.fromkeys(("log", "rsqrt", "sqrt", "inverse"), (0.01, 9.0)),
    **dict.fromkeys(
        (
            "abs", "atan", "ceil", "cos", "cosh", "erf", "exp", "exp2", "floor", "round", "sign", "sin", "sinh",
            "square", "tan", "tanh",
        ),
        (-4.0, 4.0),
    ),
}  # fmt: skip
SHAPES = [(5,), (2, 3), (2, 1, 3), (1, 2, 3, 2), (2, 1, 2, 1, 3)]


def values(low: float, high: float, *shape: int) -> np.ndarray:
    return np.random.default_rng(7).uniform(low, high, shape).astype(np.float32)


@pytest.mark.parametrize("name", DOMAINS)
def test_as_coremltools_infers(name: str) -> None:
    def build(x: Any) -> Any:
        return getattr(mb, name)(x=x)

    x = values(*DOMAINS[name], 3, 4)
    same(evaluated(build, x), inferred(build, x), rtol=2e-5)


@pytest.mark.parametrize(
    "target", [ct.target.iOS15, ct.target.iOS16, ct.target.iOS17, ct.target.iOS18], ids=lambda target: target.name
)
def test_every_rank_and_opset(target: Any) -> None:
    def build(*inputs: Any) -> Any:
        return [
            found
            for x in inputs
            for found in (
                mb.tanh(x=x),
                mb.log(x=x, epsilon=np.float32(0.5)),
                mb.rsqrt(x=x, epsilon=np.float32(0.5)),
                mb.inverse(x=x, epsilon=np.float32(0.5)),
                mb.clip(x=x, alpha=np.float32(1), beta=np.float32(2)),
                mb.cast(x=x, dtype="int32"),
            )
        ]

    arrays = [values(0.1, 3.0, *shape) for shape in SHAPES]
    same(evaluated(build, *arrays, target=target), inferred(build, *arrays, target=target))


@pytest.mark.parametrize("name", ["abs", "sign", "square"])
def test_integers_stay_integers(name: str) -> None:
    def build(x: Any) -> Any:
        return getattr(mb, name)(x=x)

    x = np.array([[-7, -1, 0], [1, 3, 30000]], np.int32)
    found = evaluated(build, x)
    assert found[0].dtype == np.int32
    same(found, inferred(build, x))


def test_powers_of_two_that_are_integers() -> None:
    """What is no integer is rounded towards zero; inference gives floats."""
    found = evaluated(lambda x: mb.exp2(x=x), np.array([-1, 0, 1, 5, 30], np.int32))
    assert found[0].dtype == np.int32
    same(found, [np.array([0, 1, 2, 32, 1 << 30], np.int32)])


def test_halves_are_rounded_to_even() -> None:
    x = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.49, -1.51], np.float32)
    same(evaluated(lambda x: mb.round(x=x), x), [np.array([-2, -2, 0, 0, 2, 2, 0, -2], np.float32)])


def test_rounding_up_and_down() -> None:
    x = np.array([-1.5, -1.0, -0.2, 0.0, 0.2, 1.0, 1.5], np.float32)
    same(
        evaluated(lambda x: (mb.floor(x=x), mb.ceil(x=x), mb.sign(x=x)), x),
        [
            np.array([-2, -1, -1, 0, 0, 1, 1], np.float32),
            np.array([-1, -1, 0, 0, 1, 1, 2], np.float32),
            np.array([-1, -1, -1, 0, 1, 1, 1], np.float32),
        ],
    )


@pytest.mark.parametrize("name", ["inverse", "log", "rsqrt"])
@pytest.mark.parametrize("epsilon", [None, np.float32(1e-3), np.float32(2.0), np.float16(0.5)], ids=str)
def test_epsilon(name: str, epsilon: Any) -> None:
    options = {} if epsilon is None else {"epsilon": epsilon}

    def build(x: Any) -> Any:
        return getattr(mb, name)(x=x, **options)

    x = np.array([1e-6, 1e-4, 0.03, 1.0, 500.0], np.float32)
    same(evaluated(build, x), inferred(build, x))


def test_epsilon_keeps_zero_finite() -> None:
    def build(x: Any) -> Any:
        return mb.inverse(x=x), mb.log(x=x), mb.rsqrt(x=x)

    same(evaluated(build, np.zeros(2, np.float32)), [np.full(2, v) for v in (1e4, -103.27893, 1e6)])


@pytest.mark.parametrize(("alpha", "beta"), [(-1.0, 1.0), (0.0, 6.0), (-3.5, -0.5)])
def test_clip(alpha: float, beta: float) -> None:
    def build(x: Any) -> Any:
        return mb.clip(x=x, alpha=np.float32(alpha), beta=np.float32(beta))

    x = values(-8, 8, 3, 5)
    same(evaluated(build, x), inferred(build, x))


def test_clip_to_an_empty_range() -> None:
    """iOS15 lets it pass; the upper bound wins."""

    def build(x: Any) -> Any:
        return mb.clip(x=x, alpha=np.float32(2), beta=np.float32(1))

    x = np.array([0, 1.5, 3], np.float32)
    same(evaluated(build, x, target=ct.target.iOS15), inferred(build, x, target=ct.target.iOS15))


@pytest.mark.parametrize("alpha", [np.float32(0.5), np.float32(-2), np.int32(1), np.int32(-2)], ids=repr)
def test_threshold(alpha: Any) -> None:
    def build(x: Any) -> Any:
        return mb.threshold(x=x, alpha=alpha)

    x = np.array([[-3, -1, 0], [1, 2, 5]], alpha.dtype)
    found = evaluated(build, x)
    assert found[0].dtype == x.dtype
    same(found, inferred(build, x))


def test_logical_not() -> None:
    def build(x: Any) -> Any:
        return mb.cast(x=mb.logical_not(x=x), dtype="int32")

    same(evaluated(build, np.array([[True, False], [False, False]])), [np.array([[0, 1], [1, 1]])])


def there_and_back(dtype: str, back: str = "int32") -> Any:
    """Outputs of models are int32 or floats."""
    return lambda x: mb.cast(x=mb.cast(x=x, dtype=dtype), dtype=back)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "bool"])
def test_floats_are_truncated(dtype: str) -> None:
    x = np.array([0.0, 0.5, 0.999, 1.5, 2.7, 100.9, 127.0], np.float32)
    x = x if dtype.startswith("u") else np.concatenate([-x, x])
    same(evaluated(there_and_back(dtype), x), inferred(there_and_back(dtype), x))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "bool"])
def test_integers_wrap_around(dtype: str) -> None:
    x = np.array([0, 1, -1, 127, 128, 255, 256, -128, -129, 32768, 65535, 65536, 70000, -70000], np.int32)
    same(evaluated(there_and_back(dtype), x), inferred(there_and_back(dtype), x))


@pytest.mark.parametrize("source", [np.int8, np.uint8, np.int16, np.uint16, np.int32, bool])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_to_floats(source: Any, dtype: str) -> None:
    x = np.array([0, 1, 3, 100], source)
    same(evaluated(there_and_back(dtype, "fp32"), x), inferred(there_and_back(dtype, "fp32"), x))


def test_floats_that_no_integer_holds() -> None:
    x = np.array([3e9, -3e9, np.inf, -np.inf, np.nan, 2147483648.0, -2147483648.0], np.float32)
    wanted = [INT32.max, INT32.min, INT32.max, INT32.min, 0, INT32.max, INT32.min]
    same(evaluated(lambda x: mb.cast(x=x, dtype="int32"), x), [np.array(wanted, np.int32)])


def test_floats_wrap_around_in_small_integers() -> None:
    x = np.array([-1.5, 300.0, 1e12], np.float32)
    for dtype, wanted in (("uint8", [255, 44, 255]), ("int8", [-1, 44, -1]), ("uint16", [65535, 300, 65535])):
        same(evaluated(there_and_back(dtype), x), [np.array(wanted)])


@pytest.mark.parametrize("dtype", ["int32", "fp16", "fp32", "bool"])
def test_cast_of_the_first_opset(dtype: str) -> None:
    x = np.array([[-2.5, 0.0], [0.25, 3.75]], np.float32)
    build = there_and_back(dtype, "fp32")
    same(evaluated(build, x, target=ct.target.iOS15), inferred(build, x, target=ct.target.iOS15))


@pytest.mark.parametrize(
    "name", ["acos", "atan", "atanh", "cos", "cosh", "erf", "exp", "exp2", "inverse", "log", "rsqrt", "sqrt", "square"]
)
def test_gradients_flow(name: str) -> None:
    x = torch.tensor([0.2, 0.5, 0.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(OPS[name].function, (x,))
