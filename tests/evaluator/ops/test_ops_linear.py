"""Products of matrices, against coremltools' own inference."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from evaluator import against_torch, evaluated, inferred, mb, same  # noqa: E402

from mil_palettize.torch.evaluator.ops import OPS  # noqa: E402


def values(shape: tuple[int, ...], dtype: type = np.float32, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * 3).astype(dtype)


@pytest.mark.parametrize("target", [ct.target.iOS15, ct.target.iOS17])
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
@pytest.mark.parametrize("shape", [(4,), (2, 4), (2, 3, 4), (2, 1, 2, 3, 4)])
def test_linear(shape, dtype, target):
    weight, bias = values((5, 4), dtype, 1), values((5,), dtype, 2)

    def build(x):
        return mb.linear(x=x, weight=weight), mb.linear(x=x, weight=weight, bias=bias)

    x = values(shape, dtype)
    found = evaluated(build, x, target=target)
    same(found, inferred(build, x, target=target), atol=1e-5)
    assert {array.dtype for array in found} == {np.dtype(dtype)}


def test_linear_of_another_type():
    x, weight = values((2, 4)), values((5, 4), np.float16, 1)
    found = evaluated(lambda x: mb.linear(x=x, weight=weight), x)
    same(found, [x @ weight.astype(np.float32).T], atol=1e-5)


SHAPES = [
    ((2, 3), (3, 4)),
    ((3, 2, 3, 4), (3, 2, 4, 5)),
    ((1, 1, 1, 3, 4), (1, 3, 2, 4, 5)),
    ((1, 3, 1, 2, 3), (1, 4, 3, 2)),
    ((7, 4), (3, 2, 5, 4, 3)),
    ((3,), (3, 4)),
    ((3,), (2, 3, 4)),
]


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
@pytest.mark.parametrize(("one", "two"), SHAPES)
def test_matmul(one, two, dtype):
    x, y = values(one, dtype), values(two, dtype, 1)

    def build(x, y):
        return mb.matmul(x=x, y=y)

    found = evaluated(build, x, y)
    same(found, inferred(build, x, y), atol=1e-5)
    assert found[0].dtype == dtype


@pytest.mark.parametrize(("transpose_x", "transpose_y"), [(False, True), (True, False), (True, True)])
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_transposed(dtype, transpose_x, transpose_y):
    x = values((2, 3, 4, 5) if not transpose_x else (2, 3, 5, 4), dtype)
    y = values((3, 5, 6) if not transpose_y else (3, 6, 5), dtype, 1)

    def build(x, y):
        return mb.matmul(x=x, y=y, transpose_x=transpose_x, transpose_y=transpose_y)

    same(evaluated(build, x, y), inferred(build, x, y), atol=1e-5)


def test_a_constant_on_either_side():
    x, left, right = values((2, 3, 4)), values((5, 3), seed=1), values((4, 5), seed=2)

    def build(x):
        return mb.matmul(x=left, y=x), mb.matmul(x=x, y=right)

    same(evaluated(build, x), inferred(build, x), atol=1e-5)


def test_vectors():
    matmul = OPS["matmul"].function
    x, y, z = (torch.as_tensor(values(shape)) for shape in [(4,), (4,), (2, 3, 4)])
    torch.testing.assert_close(matmul(x, y, transpose_x=True, transpose_y=True), x.dot(y))
    torch.testing.assert_close(matmul(z, y, transpose_y=True), z @ y)


@pytest.mark.parametrize(
    ("equation", "one", "two"),
    [
        ("nchw,nwhu->nchu", (2, 3, 4, 5), (2, 5, 4, 6)),
        ("abcd,adce->abce", (1, 3, 4, 5), (2, 5, 1, 6)),
        ("abcd,adce->abce", (2, 3, 1, 5), (1, 5, 4, 6)),
        ("chw,whr->chr", (3, 4, 5), (5, 4, 6)),
        ("vnm,mno->vno", (3, 1, 5), (5, 4, 6)),
    ],
)
def test_einsum(equation, one, two):
    x, y = values(one), values(two, seed=1)

    def build(x, y):
        return mb.einsum(values=(x, y), equation=equation), mb.einsum(values=(x, mb.const(val=y2)), equation=equation)

    y2 = values(two, seed=2)
    same(evaluated(build, x, y), inferred(build, x, y), atol=1e-5)


class Products(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = torch.nn.Linear(4, 5), torch.nn.Linear(5, 3, bias=False)

    def forward(self, x, y):
        return self.two(self.one(x)), torch.einsum("bhq,bkh->bqk", x, y), torch.bmm(y, x), torch.matmul(x[0], y[1].T)


def test_converted():
    against_torch(Products(), values((2, 4, 4)), values((2, 6, 4), seed=1))
