"""Ops that make, fill, pad, join, sort and count tensors."""

from __future__ import annotations

from typing import Any

import coremltools as ct
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from evaluator import Module, against_torch, evaluated, inferred, mb, same  # noqa: E402

from mil_palettize.errors import EvaluationError  # noqa: E402
from mil_palettize.torch.evaluator.ops import OPS  # noqa: E402


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def integers(*shape: int, low: int = -9, high: int = 10) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(low, high, shape).astype(np.int32)


def as_int(x: Any) -> Any:
    return mb.cast(x=x, dtype="int32")


@pytest.mark.parametrize(("lower", "upper"), [(-1, -1), (0, -1), (-1, 0), (0, 0), (1, 2), (2, -1), (-3, 1), (9, 9)])
def test_band_part(lower, upper):
    def build(x):
        return mb.band_part(x=x, lower=lower, upper=upper)

    for x in (floats(2, 3, 5), floats(4, 3), integers(4, 4)):
        same(evaluated(build, x), inferred(build, x))


def test_band_part_of_bool():
    x = np.ones((3, 4), bool)
    same(evaluated(lambda x: as_int(mb.band_part(x=x, lower=0, upper=1)), x), [np.tri(3, 4, 1) - np.tri(3, 4, -1)])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_cumsum(axis, exclusive, reverse):
    for x in (floats(3, 4, 5), integers(4, 3)):
        rows = np.moveaxis(x, axis, 0)
        sums = [
            (rows[i + exclusive :] if reverse else rows[: i + 1 - exclusive]).sum(0, dtype=x.dtype)
            for i in range(len(rows))
        ]
        found = evaluated(lambda x: mb.cumsum(x=x, axis=axis, exclusive=exclusive, reverse=reverse), x)
        same(found, [np.moveaxis(np.stack(sums), 0, axis)])
        assert found[0].dtype == x.dtype


@pytest.mark.parametrize("value", [0.0, 2.5, 3, -1])
def test_fill(value):
    def build(x):
        return mb.add(x=mb.fill(shape=[2, 3], value=value), y=x)

    x = np.zeros((2, 3), np.float32 if isinstance(value, float) else np.int32)
    same(evaluated(build, x), [np.full((2, 3), value, x.dtype)])


def test_fill_of_bool():
    same(evaluated(lambda x: [as_int(mb.fill(shape=[2], value=True)), x], floats(1)), [np.ones(2), floats(1)])


def test_fill_with_a_shape_that_is_computed():
    same(evaluated(lambda s: mb.fill(shape=s, value=7), np.array([2, 1, 3], np.int32)), [np.full((2, 1, 3), 7)])


@pytest.mark.parametrize("value", [1.5, 4, True])
@pytest.mark.parametrize("shape", [(3,), (2, 3, 1)])
def test_fill_like(shape, value):
    def build(x):
        return as_int(mb.fill_like(ref_tensor=x, value=value))

    same(evaluated(build, floats(*shape)), [np.full(shape, int(value))])


def test_fill_like_keeps_the_type_of_the_value():
    fill_like = OPS["fill_like"].function
    found = [fill_like(torch.zeros(1, dtype=torch.int32), value).dtype for value in (0.0, 1, False)]
    assert found == [torch.float32, torch.int32, torch.bool]


@pytest.mark.parametrize("x", [np.array([0, 3, 0, -1], np.int32), floats(2, 3) * (floats(2, 3) > 0), integers(2, 2, 3)])
def test_non_zero(x):
    found = evaluated(lambda x: mb.non_zero(x=x), x)
    same(found, [np.argwhere(x)])
    assert found[0].dtype == np.int32


@pytest.mark.parametrize(("on", "off"), [(1, 0), (2.5, -1.0)])
@pytest.mark.parametrize("axis", [-1, -2, -3, 0, 1, 2])
def test_one_hot(axis, on, off):
    indices = np.array([[0, 3, 1], [2, 5, 0]], np.int32)  # 5 is out of range

    def build(x):
        return mb.one_hot(indices=x, one_hot_vector_size=4, axis=axis, on_value=on, off_value=off)

    hot = np.where(np.arange(4) == indices[..., None], on, off)
    same(evaluated(build, indices), [np.moveaxis(hot, -1, axis)])


def test_one_hot_of_a_size_that_is_computed():
    def build(x, n):
        return mb.one_hot(indices=x, one_hot_vector_size=mb.squeeze(x=n))

    found = evaluated(build, np.array([1, 0], np.int32), np.array([3], np.int32))
    same(found, [np.array([[0, 1, 0], [1, 0, 0]])])
    assert found[0].dtype == np.int32


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate"])
@pytest.mark.parametrize(
    ("shape", "pad"),
    [
        ((4,), [2, 1]),
        ((3, 4), [0, 3]),
        ((3, 4), [1, 2, 3, 0]),
        ((2, 3, 4), [1, 1, 2, 3]),
        ((2, 1, 3, 4), [0, 0, 0, 0, 2, 1, 0, 3]),
        ((2, 2, 2, 3, 2), [1, 0, 0, 1, 1, 1, 2, 2, 0, 1]),
    ],
)
def test_pad(shape, pad, mode):
    def build(x):
        return mb.pad(x=x, pad=pad, mode=mode, constant_val=1.5)

    same(evaluated(build, floats(*shape)), inferred(build, floats(*shape)))


def test_pad_that_is_computed():
    x, pad = floats(2, 3), np.array([1, 0, 2, 1], np.int32)
    same(evaluated(lambda x, p: mb.pad(x=x, pad=p), x, pad), [np.pad(x, [(1, 0), (2, 1)])])


@pytest.mark.parametrize(
    "layer",
    [torch.nn.ReflectionPad2d((1, 2, 0, 1)), torch.nn.ReplicationPad2d((3, 0, 2, 1)), torch.nn.ConstantPad1d(2, -1.0)],
    ids=lambda layer: type(layer).__name__,
)
def test_padding_layers(layer):
    against_torch(layer, floats(1, 2, 3, 4))


@pytest.mark.parametrize(
    ("start", "end", "step"), [(0, 5, 1), (2, 9, 3), (5, 0, -2), (0.0, 1.0, 0.25), (1.5, -1.0, -0.5), (0.0, 1.0, 0.3)]
)
def test_range_1d(start, end, step):
    def build(x):
        return [mb.range_1d(start=start, end=end, step=step), mb.identity(x=x)]

    found = evaluated(build, floats(1))
    same(found, inferred(build, floats(1)))
    assert found[0].dtype == (np.int32 if isinstance(start, int) else np.float32)


@pytest.mark.parametrize("end", [4, 0, -3])
def test_range_1d_with_an_end_that_is_computed(end):
    def build(x):
        return mb.range_1d(start=0, end=mb.squeeze(x=x), step=1)

    same(evaluated(build, np.array([end], np.int32)), [np.arange(end)])


@pytest.mark.parametrize(
    ("shape", "reps"), [((3,), [2]), ((2, 3), [1, 3]), ((2, 1, 3), [2, 4, 1]), ((1, 2, 1, 2, 1), [2, 1, 3, 1, 2])]
)
def test_tile(shape, reps):
    def build(x):
        return mb.tile(x=x, reps=reps)

    same(evaluated(build, floats(*shape)), inferred(build, floats(*shape)))
    same(evaluated(build, integers(*shape)), inferred(build, integers(*shape)))


@pytest.mark.parametrize("reps", [[2, 0], [-1, 1], [2]])
def test_tile_takes_no_less_than_one_of_each_axis(reps):
    with pytest.raises(
        EvaluationError, match=r"op '.*' \(tile\) cannot be run: .*reps is .*; it has to be 2 numbers from 1"
    ):
        evaluated(lambda x, r: mb.tile(x=x, reps=r), np.ones((2, 3), np.float32), np.array(reps, np.int32))


def test_tile_with_reps_that_are_computed():
    x, reps = floats(2, 3), np.array([2, 3], np.int32)
    same(evaluated(lambda x, r: mb.tile(x=x, reps=r), x, reps), [np.tile(x, (2, 3))])


@pytest.mark.parametrize("ascending", [False, True])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_argsort(axis, ascending):
    def build(x):
        return mb.argsort(x=x, axis=axis, ascending=ascending)

    found = evaluated(build, floats(3, 7, 4))
    same(found, inferred(build, floats(3, 7, 4)))
    assert found[0].dtype == np.int32


@pytest.mark.parametrize("ascending", [False, True])
@pytest.mark.parametrize(("axis", "k"), [(0, 1), (1, 5), (-1, 4), (-2, 2)])
def test_topk(axis, k, ascending):
    def build(x):
        return mb.topk(x=x, k=k, axis=axis, ascending=ascending)

    for target in (ct.target.iOS15, ct.target.iOS18):
        found = evaluated(build, floats(3, 7, 4), target=target)
        same(found, inferred(build, floats(3, 7, 4), target=target))
        assert found[1].dtype == np.int32


@pytest.mark.parametrize("sort", [False, True])
def test_topk_without_indices(sort):
    def build(x):
        return mb.topk(x=x, k=3, sort=sort, return_indices=False)

    (found,) = evaluated(build, floats(2, 6), target=ct.target.iOS16)
    np.testing.assert_array_equal(np.sort(found), np.sort(floats(2, 6))[:, 3:])


def test_topk_with_indices_of_another_type():
    def build(x):
        values, indices = mb.topk(x=x, k=3, output_indices_dtype="uint16")
        return values, as_int(indices)

    x = floats(2, 6)
    order = np.argsort(-x, axis=1)[:, :3]
    same(evaluated(build, x), [np.take_along_axis(x, order, 1), order])


def test_topk_of_all():
    values, indices = OPS["topk"].function(torch.tensor([[3, 1, 2]], dtype=torch.int32), k=-1)
    assert (values.tolist(), indices.tolist()) == ([[3, 2, 1]], [[0, 2, 1]])
    assert values.dtype == torch.int32


@pytest.mark.parametrize(("shape", "axis"), [((3,), 1), ((4, 3), -1), ((2, 3, 2), 1), ((2, 3, 2), -1), ((5, 5, 2), 2)])
def test_flatten2d(shape, axis):
    def build(x):
        return mb.flatten2d(x=x, axis=axis)

    wanted = floats(*shape).reshape(int(np.prod(shape[:axis])), -1)
    same([np.asarray(OPS["flatten2d"].function(torch.tensor(floats(*shape)), axis))], [wanted])
    if axis % (len(shape) + 1) < len(shape):
        same(evaluated(build, floats(*shape)), inferred(build, floats(*shape)))


@pytest.mark.parametrize("shape", [(3,), (2, 1, 4)])
def test_shape(shape):
    found = evaluated(lambda x: mb.shape(x=x), floats(*shape))
    same(found, [np.array(shape)])
    assert found[0].dtype == np.int32


def test_shape_of_a_scalar():
    found = OPS["shape"].function(torch.tensor(1.0))
    assert found.shape == (0,)
    assert found.dtype == torch.int32


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_concat(axis):
    shapes = [[2, 3, 4], [2, 3, 4], [2, 3, 4]]
    shapes[0][axis], shapes[2][axis] = 1, 3
    arrays = [floats(*shape) for shape in shapes]

    def build(*values):
        return mb.concat(values=values, axis=axis)

    same(evaluated(build, *arrays), inferred(build, *arrays))


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_concat_interleaved(axis):
    arrays = [floats(2, 3, 4), floats(2, 3, 4) + 10, floats(2, 3, 4) + 20]
    shape = [2, 3, 4]
    shape[axis] *= 3
    wanted = np.empty(shape, np.float32)
    for i, array in enumerate(arrays):
        np.moveaxis(wanted, axis, 0)[i::3] = np.moveaxis(array, axis, 0)
    same(evaluated(lambda *values: mb.concat(values=values, axis=axis, interleave=True), *arrays), [wanted])


def test_concat_of_one_and_of_scalars():
    def build(x, y):
        scalars = [mb.squeeze(x=y), mb.squeeze(x=y), np.int32(4)]
        return mb.concat(values=[x], axis=0), mb.concat(values=scalars, axis=0)

    same(evaluated(build, floats(3), np.array([7], np.int32)), [floats(3), np.array([7, 7, 4])])


@pytest.mark.parametrize("axis", [1, -2])
@pytest.mark.parametrize(
    "parts", [{"num_splits": 3}, {"split_sizes": [1, 3, 2]}, {"num_splits": 2, "split_sizes": [2, 4]}]
)
def test_split(axis, parts):
    def build(x):
        return mb.split(x=x, axis=axis, **parts)

    for x in (floats(2, 6, 3), integers(2, 6, 3)):
        same(evaluated(build, x), inferred(build, x))


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_stack(axis):
    arrays = [floats(2, 3), floats(2, 3) + 1]

    def build(*values):
        return mb.stack(values=values, axis=axis)

    same(evaluated(build, *arrays), inferred(build, *arrays))


def test_stack_of_scalars():
    found = evaluated(lambda x: mb.stack(values=[mb.squeeze(x=x), mb.squeeze(x=x)], axis=0), np.array([3], np.int32))
    same(found, [np.array([3, 3])])


@pytest.mark.parametrize("x", [floats(2, 3), integers(4)])
def test_identity(x):
    same(evaluated(lambda x: mb.identity(x=x), x), [x])


FUNCTIONS = {
    "triu": lambda x: torch.triu(x, 1),
    "tril": lambda x: torch.tril(x, -1),
    "cumsum": lambda x: torch.cumsum(x, -1),
    "topk": lambda x: torch.topk(x, 3, dim=1, largest=False)[0],
    "sort": lambda x: torch.sort(x, dim=1, descending=True)[0],
    "chunk": lambda x: torch.chunk(x, 2, dim=1)[1],
    "stack": lambda x: torch.stack([x, x], dim=1),
    "repeat": lambda x: x.repeat(1, 2, 1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_torch(name):
    against_torch(Module(FUNCTIONS[name]), floats(2, 4, 4))


def double(*shape: int) -> Any:
    return torch.tensor(floats(*shape), dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("pad", {"pad": [1, 2], "mode": "reflect"}),
        ("pad", {"pad": [2, 0, 0, 1], "mode": "replicate"}),
        ("cumsum", {"axis": 1, "exclusive": True, "reverse": True}),
        ("topk", {"k": 2, "return_indices": False}),
        ("band_part", {"lower": 1, "upper": 0}),
    ],
)
def test_gradients_flow(name, parameters):
    assert torch.autograd.gradcheck(lambda x: OPS[name].function(x, **parameters), double(3, 4))
