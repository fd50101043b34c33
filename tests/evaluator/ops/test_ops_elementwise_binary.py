"""Elementwise ops of two tensors against coremltools' own inference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import coremltools as ct  # noqa: E402
from evaluator import against_torch, evaluated, inferred, mb, same  # noqa: E402
from torch import nn  # noqa: E402

from mil_palettize.torch.evaluator.ops import OPS  # noqa: E402

ARITHMETIC = ["add", "sub", "mul", "real_div", "floor_div", "mod", "pow", "maximum", "minimum"]
COMPARING = ["equal", "not_equal", "greater", "greater_equal", "less", "less_equal"]
LOGICAL = ["logical_and", "logical_or", "logical_xor"]
SHAPES = [(2, 3, 2), (2, 3, 2), (3, 1), (2,), (1,), (2, 1, 1, 3, 1)]


def on_all_shapes(name: str, scalar: Any, dtype: str | None = None) -> Any:
    """The op of the first tensor and each other and a scalar, both ways round; ``dtype``: of the result, where no model
    may give what the op gives."""

    def build(first: Any, *others: Any) -> Any:
        pairs = [pair for other in (*others, scalar) for pair in ((first, other), (other, first))]
        found = [getattr(mb, name)(x=x, y=y) for x, y in pairs]
        return [mb.cast(x=one, dtype=dtype) for one in found] if dtype else found

    return build


def floats(low: float, high: float) -> list[np.ndarray]:
    random = np.random.default_rng(11)
    return [random.uniform(low, high, shape).astype(np.float32) for shape in SHAPES]


def integers(low: int, high: int) -> list[np.ndarray]:
    """Without zeros."""
    random = np.random.default_rng(12)
    arrays = [random.integers(low, high, shape).astype(np.int32) for shape in SHAPES]
    return [np.where(array == 0, 1, array).astype(np.int32) for array in arrays]


@pytest.mark.parametrize("target", [ct.target.iOS15, ct.target.iOS18], ids=lambda target: target.name)
@pytest.mark.parametrize("name", ARITHMETIC)
def test_floats(name: str, target: Any) -> None:
    arrays = floats(0.2, 3) if name == "pow" else floats(-3, 3)
    build = on_all_shapes(name, np.float32(1.75))
    same(evaluated(build, *arrays, target=target), inferred(build, *arrays, target=target), rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in ARITHMETIC if name != "real_div"])
def test_integers(name: str) -> None:
    arrays = integers(1, 6) if name == "pow" else integers(-9, 10)
    build = on_all_shapes(name, np.int32(3))
    found = evaluated(build, *arrays)
    assert {array.dtype for array in found} == {np.dtype(np.int32)}
    same(found, inferred(build, *arrays))


@pytest.mark.parametrize("name", COMPARING)
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_comparisons(name: str, dtype: Any) -> None:
    arrays = [array.astype(dtype) for array in integers(-2, 3)]
    build = on_all_shapes(name, dtype(1), "int32")
    same(evaluated(build, *arrays), inferred(build, *arrays))


@pytest.mark.parametrize("name", LOGICAL)
def test_logic(name: str) -> None:
    arrays = [array > 0 for array in integers(-9, 10)]
    build = on_all_shapes(name, np.bool_(True), "int32")
    same(evaluated(build, *arrays), inferred(build, *arrays))


X = np.array([7, -7, 7, -7, 6, -6, 0], np.int32)
Y = np.array([2, 2, -2, -2, 3, 3, 5], np.int32)


def test_division_rounds_down_and_mod_has_the_sign_of_the_divisor() -> None:
    def build(x: Any, y: Any) -> Any:
        return mb.floor_div(x=x, y=y), mb.mod(x=x, y=y)

    wanted = [np.array([3, -4, -4, 3, 2, -2, 0]), np.array([1, 1, -1, -1, 0, 0, 0])]
    same(evaluated(build, X, Y), wanted)
    same(evaluated(build, X.astype(np.float32), Y.astype(np.float32)), [array.astype(np.float32) for array in wanted])


def test_real_division_of_integers_gives_integers() -> None:
    """As the op declares it; inference gives floats."""
    found = evaluated(lambda x, y: mb.real_div(x=x, y=y), X, Y)
    assert found[0].dtype == np.int32
    same(found, [np.array([3, -3, -3, 3, 2, -2, 0])])


def test_division_of_integers_by_zero() -> None:
    def build(x: Any, y: Any) -> Any:
        return mb.floor_div(x=x, y=y), mb.mod(x=x, y=y), mb.real_div(x=x, y=y)

    x, y = np.array([5, -5, 0, 4], np.int32), np.array([0, 0, 0, 2], np.int32)
    found = evaluated(build, x, y)
    assert {array.dtype for array in found} == {np.dtype(np.int32)}
    same(found, [np.array([0, 0, 0, 2]), np.array([0, 0, 0, 0]), np.array([0, 0, 0, 2])])


def test_division_of_floats_by_zero() -> None:
    def build(x: Any, y: Any) -> Any:
        return mb.real_div(x=x, y=y), mb.floor_div(x=x, y=y)

    x, y = np.array([5, -5, 0], np.float32), np.zeros(3, np.float32)
    same(evaluated(build, x, y), [np.array([np.inf, -np.inf, np.nan], np.float32)] * 2)


@pytest.mark.parametrize("name", ["maximum", "minimum", "add"])
def test_nan_spreads(name: str) -> None:
    build = on_all_shapes(name, np.float32(1))
    arrays = floats(-3, 3)
    arrays[0][0] = np.nan
    same(evaluated(build, *arrays), inferred(build, *arrays))


def test_powers() -> None:
    x = np.array([-2, -2, 0, 4, 2, 0], np.float32)
    y = np.array([3, -1, 0, 0.5, -2, 2], np.float32)
    same(evaluated(lambda x, y: mb.pow(x=x, y=y), x, y), [np.array([-8, -0.5, 1, 2, 0.25, 0], np.float32)])


class Mixed(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (
            x + 2 * y - 1,
            torch.where(torch.logical_or((x > y) & (y <= 0.5), x == 0), x, y),
            torch.maximum(x, y) / (1 + y**2),
            torch.div(x, y, rounding_mode="floor"),
            torch.div(x, y, rounding_mode="trunc"),
            torch.remainder(x, y),
        )


def test_module() -> None:
    random = np.random.default_rng(13)
    x, y = random.uniform(-4, 4, (2, 3, 4)), random.uniform(0.3, 2, (3, 1))
    against_torch(Mixed(), x.astype(np.float32), y.astype(np.float32))


@pytest.mark.parametrize("name", ["add", "sub", "mul", "real_div", "pow", "maximum", "minimum"])
def test_gradients_flow(name: str) -> None:
    x = torch.tensor([[0.2, 1.5, 0.7]], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([[1.1], [0.4]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(OPS[name].function, (x, y))
