"""Ops that gather and scatter, against coremltools' value inference, torch, and loops in numpy."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest

torch = pytest.importorskip("torch")
from evaluator import against_torch, evaluated, inferred, mb, same  # noqa: E402

from mil_palettize.errors import EvaluationError  # noqa: E402
from mil_palettize.torch.evaluator.ops import OPS  # noqa: E402

MODES = ["update", "add", "sub", "mul", "div", "max", "min"]
rng = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return rng.uniform(0.5, 2, shape).astype(np.float32)


def apply(mode: str, old, new):
    return {
        "update": lambda: new,
        "add": lambda: old + new,
        "sub": lambda: old - new,
        "mul": lambda: old * new,
        "div": lambda: old / new,
        "max": lambda: np.maximum(old, new),
        "min": lambda: np.minimum(old, new),
    }[mode]()


@pytest.mark.parametrize(
    ("shape", "indices", "axis"),
    [
        ((5,), 3, 0),
        ((5,), [4, 0, 0], 0),
        ((3, 4), 1, -1),
        ((3, 4), [[1, 2], [0, 3]], 1),
        ((2, 3, 4), [-1, 0, -3], 1),
        ((2, 3, 2, 2), [[1, 0]], -2),
        ((2, 1, 2, 1, 3), [2, 2], 4),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_gather(shape, indices, axis, dtype):
    x, indices = (10 * floats(*shape)).astype(dtype), np.array(indices, np.int32)

    def build(x, indices):
        return mb.gather(x=x, indices=indices, axis=axis)

    wanted = [np.take(x, indices, axis)]
    if indices.ndim:
        same(inferred(build, x, indices), wanted)
        same(evaluated(build, x, indices), wanted)
    same(evaluated(lambda x: mb.gather(x=x, indices=indices, axis=axis), x), wanted)


@pytest.mark.parametrize("target", [ct.target.iOS16, ct.target.iOS18])
@pytest.mark.parametrize(
    ("shape", "indices_shape", "axis", "batch_dims"),
    [((2, 4), (2, 3), 1, 1), ((2, 3, 4, 2), (2, 5), 2, 1), ((2, 3, 4), (2, 3, 2, 2), 2, 2), ((2, 3, 4), (2, 3), 2, 2)],
)
def test_gather_of_batches(shape, indices_shape, axis, batch_dims, target):
    x = floats(*shape)
    indices = rng.integers(0, shape[axis], indices_shape).astype(np.int32)

    def build(x, indices):
        return mb.gather(x=x, indices=indices, axis=axis, batch_dims=batch_dims)

    if len(indices_shape) > batch_dims:
        same(evaluated(build, x, indices, target=target), inferred(build, x, indices, target=target))
    else:
        wanted = np.take_along_axis(x, indices[..., None], axis)[..., 0]
        same(evaluated(build, x, indices, target=target), [wanted])


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int8, np.uint8])
def test_small_integers_as_indices(dtype):
    x, indices = floats(4, 3), np.array([[2, 0, 1], [3, 1, 1]], dtype)
    (rows,) = evaluated(lambda x, i: mb.gather(x=x, indices=i, axis=0), x, indices)
    np.testing.assert_array_equal(rows, x[indices])
    (along,) = evaluated(lambda x, i: mb.gather_along_axis(x=x, indices=i, axis=0), x, indices)
    np.testing.assert_array_equal(along, np.take_along_axis(x, indices.astype(int), 0))


@pytest.mark.parametrize(
    ("shape", "count", "axis"), [((6,), 4, 0), ((3, 4), 5, 0), ((3, 4), 2, -1), ((2, 3, 2, 2), 4, 1)]
)
def test_gather_along_axis(shape, count, axis):
    wanted_shape = list(shape)
    wanted_shape[axis] = count
    x, indices = floats(*shape), rng.integers(-shape[axis], shape[axis], wanted_shape).astype(np.int32)

    def build(x, indices):
        return mb.gather_along_axis(x=x, indices=indices, axis=axis)

    same(evaluated(build, x, indices), inferred(build, x, indices))


@pytest.mark.parametrize(
    ("shape", "lead", "depth", "batch_dims"),
    [
        ((5,), (3,), 1, 0),
        ((3, 4), (2, 2), 2, 0),
        ((3, 4, 2), (), 1, 0),
        ((3, 4, 2), (5,), 2, 0),
        ((2, 3, 4), (2, 2), 1, 1),
        ((2, 3, 4, 2), (2, 3, 4), 1, 2),
        ((2, 3, 4), (2, 5), 2, 1),
    ],
)
def test_gather_nd(shape, lead, depth, batch_dims):
    x = floats(*shape)
    sizes = shape[batch_dims : batch_dims + depth]
    indices = np.stack([rng.integers(-size, size, lead) for size in sizes], -1).astype(np.int32)
    wanted = np.empty((*lead, *shape[batch_dims + depth :]), np.float32)
    for place in np.ndindex(*lead):
        wanted[place] = x[(*place[:batch_dims], *indices[place])]

    def build(x, indices):
        return mb.gather_nd(x=x, indices=indices, batch_dims=batch_dims)

    same(evaluated(build, x, indices), [wanted])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("shape", "indices", "axis"),
    [((4,), [1, 1, 3], 0), ((3, 2), [2, 0], -2), ((2, 4, 3), [3, -1, 0], 1), ((3, 2, 2), [[1, 0], [1, 2]], 0)],
)
def test_scatter(shape, indices, axis, mode):
    data, indices = floats(*shape), np.array(indices, np.int32)
    axis_from_0 = axis % len(shape)
    updates = floats(*shape[:axis_from_0], *indices.shape, *shape[axis_from_0 + 1 :])
    wanted = np.moveaxis(data.copy(), axis, 0)
    flat = updates.reshape(*shape[:axis_from_0], -1, *shape[axis_from_0 + 1 :])
    for index, update in zip(indices.reshape(-1), np.moveaxis(flat, axis_from_0, 0), strict=True):
        wanted[index] = apply(mode, wanted[index], update)

    def build(data, indices, updates):
        return mb.scatter(data=data, indices=indices, updates=updates, axis=axis, mode=mode)

    same(evaluated(build, data, indices, updates), [np.moveaxis(wanted, 0, axis)])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("shape", "count", "axis"), [((5,), 3, 0), ((3, 4), 5, 0), ((2, 3, 2), 3, -2)])
def test_scatter_along_axis(shape, count, axis, mode):
    updates_shape = list(shape)
    updates_shape[axis] = count
    data, updates = floats(*shape), floats(*updates_shape)
    indices = rng.integers(-shape[axis], shape[axis], updates_shape).astype(np.int32)
    wanted = data.copy()
    for place in np.ndindex(*updates_shape):
        target = list(place)
        target[axis] = indices[place]
        wanted[tuple(target)] = apply(mode, wanted[tuple(target)], updates[place])

    def build(data, indices, updates):
        return mb.scatter_along_axis(data=data, indices=indices, updates=updates, axis=axis, mode=mode)

    same(evaluated(build, data, indices, updates), [wanted])
    if mode == "update":
        same(inferred(build, data, indices, updates), [wanted])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("shape", "lead", "depth"), [((4,), (3,), 1), ((3, 4), (5,), 2), ((3, 2, 2), (2, 2), 1), ((2, 3, 2), (), 2)]
)
def test_scatter_nd(shape, lead, depth, mode):
    data, updates = floats(*shape), floats(*lead, *shape[depth:])
    indices = np.stack([rng.integers(-size, size, lead) for size in shape[:depth]], -1).astype(np.int32)
    wanted = data.copy()
    for place in np.ndindex(*lead):
        wanted[tuple(indices[place])] = apply(mode, wanted[tuple(indices[place])], updates[place])

    def build(data, indices, updates):
        return mb.scatter_nd(data=data, indices=indices, updates=updates, mode=mode)

    same(evaluated(build, data, indices, updates), [wanted])


@pytest.mark.parametrize("mode", MODES)
def test_integers_stay_integers(mode):
    data, updates = np.array([7, 20, -9], np.int32), np.array([2, 3, 4], np.int32)
    indices = np.array([2, 0, 1], np.int32)
    wanted = data.copy()
    wanted[indices] = np.trunc(apply(mode, data[indices], updates))

    def build(data, indices, updates):
        return mb.scatter(data=data, indices=indices, updates=updates, mode=mode)

    (found,) = evaluated(build, data, indices, updates)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, wanted)


def test_updates_are_added_by_default():
    data, indices, updates = floats(3), np.array([1], np.int32), floats(1)
    wanted = data + np.array([0, updates[0], 0], np.float32)
    for build in (
        lambda d, i, u: mb.scatter(data=d, indices=i, updates=u),
        lambda d, i, u: mb.scatter_along_axis(data=d, indices=i, updates=u),
        lambda d, i, u: mb.scatter_nd(data=d, indices=mb.expand_dims(x=i, axes=[1]), updates=u),
    ):
        same(evaluated(build, data, indices, updates, target=ct.target.iOS15), [wanted])


@pytest.mark.parametrize(
    "build",
    [
        lambda x, i: mb.gather(x=x, indices=i, validate_indices=True),
        lambda x, i: mb.gather_along_axis(x=x, indices=i, validate_indices=True),
        lambda x, i: mb.gather_nd(x=x, indices=mb.expand_dims(x=i, axes=[1]), validate_indices=True),
        lambda x, i: mb.scatter(data=x, indices=i, updates=x, validate_indices=True),
        lambda x, i: mb.scatter_along_axis(data=x, indices=i, updates=x, validate_indices=True),
        lambda x, i: mb.scatter_nd(data=x, indices=mb.expand_dims(x=i, axes=[1]), updates=x, validate_indices=True),
    ],
)
def test_validated_indices(build):
    x = floats(2)
    evaluated(build, x, np.array([0, 1], np.int32))
    for index in (-1, 2):
        with pytest.raises(EvaluationError, match="beyond"):
            evaluated(build, x, np.array([0, index], np.int32))


_X, _U = torch.tensor(floats(4, 5)), torch.tensor(floats(3, 5))


@pytest.mark.parametrize("validate", [False, True])
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("gather", lambda op, i, v: op(_X, i, 0, 0, v)),
        ("gather", lambda op, i, v: op(_X.half(), i, 0, 0, v)),
        ("gather", lambda op, i, v: op(_X[:3], i[:, None], 1, 1, v)),
        ("gather_along_axis", lambda op, i, v: op(_X, i[:, None].expand(3, 5), 0, v)),
        ("gather_nd", lambda op, i, v: op(_X, i[:, None], 0, v)),
        ("scatter", lambda op, i, v: op(_X, i, _U, 0, "update", v)),
        ("scatter_along_axis", lambda op, i, v: op(_X, i[:, None].expand(3, 5), _U, 0, "add", v)),
        ("scatter_nd", lambda op, i, v: op(_X, i[:, None], _U, "add", v)),
    ],
)
def test_mapped_indices(name, call, validate):
    """Where torch maps a program over samples; none is taken that is beyond the table."""

    def run(indices):
        return call(OPS[name].function, indices, validate)

    indices = torch.tensor([[0, 1, 3], [2, 0, 1]])
    if not validate:
        torch.testing.assert_close(torch.vmap(run)(indices), torch.stack([run(sample) for sample in indices]))
    for beyond in (-6, 5):
        wrong = torch.tensor([2, beyond, 1])
        with pytest.raises((IndexError, RuntimeError), match=r"index -?\d is (beyond|out of bounds)"):
            run(wrong)
        with pytest.raises(RuntimeError):
            torch.vmap(run)(torch.stack([indices[0], wrong]))


class Picks(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(6, 4)

    def forward(self, x, ids):
        rows = self.embedding(ids.long())
        return (
            rows,
            x.index_select(1, ids[0].long()),
            torch.gather(x, 1, ids.long()),
            x[ids[:, 0].long(), ids[:, 1].long()],
        )


class Puts(torch.nn.Module):
    def forward(self, x, ids, values):
        index = ids.long()
        return (
            x.scatter(1, index, values),
            x.scatter_add(1, index, values),
            x.index_put((index[:, 0],), values[:, :1].expand(2, 6) * 2),
            torch.index_put(x, (index[:, 0], index[:, 1]), values[:, 0], accumulate=True),
        )


def test_against_torch():
    x, ids = floats(2, 6), np.array([[1, 0, 1], [0, 1, 1]], np.int32)
    against_torch(Picks(), x, ids)
    against_torch(Puts(), x, np.array([[0, 2, 4], [1, 5, 0]], np.int32), floats(2, 3))
