"""Reductions, against coremltools' own inference."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from evaluator import against_torch, evaluated, inferred, mb, same  # noqa: E402

from mil_palettize.torch.evaluator.ops import OPS  # noqa: E402

NAMES = ["l1_norm", "l2_norm", "log_sum", "log_sum_exp", "max", "mean", "min", "prod", "sum", "sum_square"]
AXES = {1: [None, [0], [-1]], 3: [None, [1], [0, -1], [-1, -2], [0, 1, 2]], 5: [None, [3], [0, -2, 4]]}
SHAPES = {1: (4,), 3: (2, 3, 4), 5: (2, 1, 3, 2, 2)}


def values(shape: tuple[int, ...], dtype: type, low: float = 1.0) -> np.ndarray:
    """Positive, so that logarithms are there, and small, so that products are."""
    generator = np.random.default_rng(7)
    if dtype is np.int32:
        return generator.integers(int(low), 4, shape).astype(np.int32)
    return generator.uniform(low, 3, shape).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
@pytest.mark.parametrize("rank", [1, 3, 5])
@pytest.mark.parametrize("name", NAMES)
def test_axes(name, rank, dtype):
    x = values(SHAPES[rank], dtype)

    def build(x):
        reduce = getattr(mb, f"reduce_{name}")
        return tuple(reduce(x=x, axes=axes, keep_dims=keep) for axes in AXES[rank] for keep in (True, False))

    found = evaluated(build, x)
    same(found, inferred(build, x))
    assert {array.dtype for array in found} == {np.dtype(dtype)}


@pytest.mark.parametrize(
    "name", ["l1_norm", "l2_norm", "log_sum_exp", "max", "mean", "min", "prod", "sum", "sum_square"]
)
def test_negative_values(name):
    x = values((3, 4), np.float32, low=-3)
    for array in (x, values((3, 4), np.int32, low=-5)):

        def build(x):
            return getattr(mb, f"reduce_{name}")(x=x, axes=[1], keep_dims=True)

        same(evaluated(build, array), inferred(build, array))


def test_defaults():
    x = values((2, 3), np.float32)

    def build(x):
        return mb.reduce_sum(x=x), mb.reduce_argmax(x=x), mb.reduce_argmin(x=x)

    same(evaluated(build, x), inferred(build, x))


def test_no_axes():
    x = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    for name, expected in {"sum": x, "max": x, "l2_norm": x.abs(), "sum_square": x * x, "log_sum_exp": x}.items():
        for keep in (True, False):
            torch.testing.assert_close(OPS[f"reduce_{name}"].function(x, [], keep), expected)


def test_large_exponents():
    x = np.array([[1000.0, 1001.0], [-1000.0, -np.inf]], np.float32)

    def build(x):
        return mb.reduce_log_sum_exp(x=x, axes=[-1])

    same(evaluated(build, x), inferred(build, x))


@pytest.mark.parametrize("target", [ct.target.iOS15, ct.target.iOS17])
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
@pytest.mark.parametrize("name", ["argmax", "argmin"])
def test_positions(name, dtype, target):
    x = np.random.default_rng(3).permutation(24).reshape(2, 3, 4).astype(dtype)

    def build(x):
        reduce = getattr(mb, f"reduce_{name}")
        return tuple(reduce(x=x, axis=axis, keep_dims=keep) for axis in (0, 1, -1, -3) for keep in (True, False))

    found = evaluated(build, x, target=target)
    same(found, inferred(build, x, target=target))
    assert {array.dtype for array in found} == {np.dtype(np.int32)}


@pytest.mark.parametrize("dtype", ["int32", "uint16"])
def test_dtype_of_positions(dtype):
    x = values((2, 5), np.float32)

    def build(x):
        positions = mb.reduce_argmax(x=x, axis=1, output_dtype=dtype), mb.reduce_argmin(x=x, axis=1, output_dtype=dtype)
        return tuple(mb.cast(x=each, dtype="int32") for each in positions)

    same(evaluated(build, x), [x.argmax(1), x.argmin(1)])


def test_gradients():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    OPS["reduce_l2_norm"].function(x, [1]).sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([[0.0, 0.0], [0.6, 0.8]]))


class Reductions(torch.nn.Module):
    def forward(self, x):
        return (
            x.sum((0, 2)),
            x.mean(1, keepdim=True),
            x.amax(-1),
            x.logsumexp((1, 2)),
            x.norm(dim=1),
            x.mean(),
        )


def test_converted():
    against_torch(Reductions(), values((2, 3, 4), np.float32))
