"""Ops that rearrange elements: shapes, slices, windows, blocks."""

from __future__ import annotations

from typing import Any

import coremltools as ct
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from evaluator import Module, against_torch, evaluated, inferred, mb, same  # noqa: E402

from mil_palettize.torch.evaluator.ops import OPS  # noqa: E402


def numbered(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    """All elements different."""
    return np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)


@pytest.mark.parametrize("axes", [[0], [-1], [1, 3], [-1, -2], [3, 0], [0, 1, 4]])
def test_expand_dims(axes):
    def build(x):
        return mb.expand_dims(x=x, axes=axes)

    for x in (numbered(2, 3), numbered(2, 3, dtype=np.int32)):
        same(evaluated(build, x), inferred(build, x))


def test_expand_dims_of_a_scalar():
    same(evaluated(lambda x: mb.expand_dims(x=mb.squeeze(x=x), axes=[0, 1]), numbered(1)), [numbered(1, 1)])


@pytest.mark.parametrize(
    ("shape", "axes", "wanted"),
    [
        ((1, 2, 1), None, (2,)),
        ((1, 2, 1), [0], (2, 1)),
        ((1, 2, 1, 3), [-2, 0], (2, 3)),
        ((2, 3, 1), [0, 2], (2, 3)),  # a size that is not 1 stays
        ((1, 1), None, ()),
    ],
)
def test_squeeze(shape, axes, wanted):
    same(evaluated(lambda x: mb.squeeze(x=x, axes=axes), numbered(*shape)), [numbered(*shape).reshape(wanted)])


@pytest.mark.parametrize("shape", [[6, 4], [-1], [2, -1, 2], [0, 0, 4], [0, -1, 2], [-1, 0, 0], [24, 1, 1, 1]])
def test_reshape(shape):
    def build(x):
        return mb.reshape(x=x, shape=shape)

    x = numbered(2, 3, 4)
    for target in (ct.target.iOS15, ct.target.iOS17):
        same(evaluated(build, x, target=target), inferred(build, x, target=target))


@pytest.mark.parametrize("shape", [[1, 0, -1, 0], [0, 0, 2, 50], [-1, 0], [0]])
def test_reshape_with_zeros_counted_from_the_end(shape):
    def build(x):
        return mb.reshape(x=x, shape=shape)

    x = numbered(1, 50) if shape == [0] else numbered(2, 50)
    same(evaluated(build, x), inferred(build, x))


def test_reshape_to_a_shape_that_is_computed():
    x, shape = numbered(2, 6), np.array([3, -1], np.int32)
    same(evaluated(lambda x, s: mb.reshape(x=x, shape=s), x, shape), [x.reshape(3, 4)])


def test_reshape_like():
    def build(x, a, b):
        return mb.reshape_like(x=x, ref_tensors=(a, b), begins=(0, 1), ends=(2, 0), end_masks=(False, True))

    x = numbered(12, 15)
    same(evaluated(build, x, numbered(2, 3, 4), numbered(1, 5, 6)), [x.reshape(2, 3, 5, 6)])


def test_reshape_like_one():
    def build(x, a):
        return mb.reshape_like(x=x, ref_tensors=(a,), begins=(-2,), ends=(0,), end_masks=(True,))

    same(evaluated(build, numbered(12), numbered(7, 3, 4)), [numbered(3, 4)])


@pytest.mark.parametrize("perm", [[0, 1, 2], [2, 0, 1], [-1, -3, -2], [1, 0, -1]])
def test_transpose(perm):
    def build(x):
        return mb.transpose(x=x, perm=perm)

    for x in (numbered(2, 3, 4), numbered(2, 3, 4, dtype=np.int32)):
        same(evaluated(build, x), inferred(build, x))


def test_transpose_of_bool():
    def build(x):
        return mb.cast(x=mb.transpose(x=x, perm=[1, 0]), dtype="int32")

    x = numbered(2, 3) > 2
    same(evaluated(build, x), [x.T.astype(np.int32)])


@pytest.mark.parametrize("axes", [None, [0], [-1], [0, 2], [1, -1]])
def test_reverse(axes):
    def build(x):
        return mb.reverse(x=x, axes=axes)

    same(evaluated(build, numbered(2, 3, 4)), inferred(build, numbered(2, 3, 4)))


@pytest.mark.parametrize(("seq_axis", "batch_axis"), [(1, 0), (0, 1), (2, 0), (-1, 1), (0, -1)])
def test_reverse_sequence(seq_axis, batch_axis):
    x = numbered(4, 4, 4)
    lengths = np.array([0, 1, 3, 4], np.int32)
    wanted = x.copy()
    for i, length in enumerate(lengths):
        part = np.moveaxis(wanted, (batch_axis, seq_axis), (0, 1))[i]
        part[:length] = part[:length][::-1].copy()

    def build(x, lengths):
        return mb.reverse_sequence(x=x, lengths=lengths, seq_axis=seq_axis, batch_axis=batch_axis)

    same(evaluated(build, x, lengths), [wanted])


SLICES: list[dict[str, Any]] = [
    {"begin": [1, 0, 2], "end": [3, 4, 5]},
    {"begin": [0, 1, 0], "end": [4, 5, 6], "stride": [3, 2, 4]},
    {"begin": [-3, -4, -2], "end": [-1, -1, 6]},
    {"begin": [1, 0, 0], "end": [99, 5, 6]},
    {"begin": [3, 1, 2], "end": [2, 0, 5], "begin_mask": [True, False, False], "end_mask": [False, True, False]},
    {"begin": [0, 0, 0], "end": [0, 0, 0], "begin_mask": [True] * 3, "end_mask": [True] * 3},
    {"begin": [3, 4, 5], "end": [0, 1, 2], "stride": [-1, -2, -3]},
    {"begin": [-1, 0, -1], "end": [-4, 5, -6], "stride": [-2, 1, -2]},
    {"begin": [0] * 3, "end": [0] * 3, "stride": [-1, -2, 3], "begin_mask": [True] * 3, "end_mask": [True] * 3},
    {"begin": [2, 3, 1], "end": [0, 0, 4], "stride": [-1, -2, 1], "end_mask": [True, True, False]},
    {"begin": [1, 0, 0], "end": [0, 5, 6], "squeeze_mask": [True, False, False]},
    {"begin": [0, -2, 1], "end": [4, 0, 5], "stride": [1, 1, 2], "squeeze_mask": [False, True, False]},
    {"begin": [-1, 4, 5], "end": [0, 1, 0], "stride": [1, -1, -2], "squeeze_mask": [True, False, False]},
    {"begin": [1, 2, 5], "end": [0, 0, 0], "stride": [1, 1, -1], "squeeze_mask": [True, True, False]},
    {"begin": [2, 0, 0], "end": [2, 5, 6]},
]


@pytest.mark.parametrize("parameters", SLICES)
def test_slice_by_index(parameters):
    def build(x):
        return mb.slice_by_index(x=x, **parameters)

    for x in (numbered(4, 5, 6), numbered(4, 5, 6, dtype=np.int32)):
        same(evaluated(build, x), inferred(build, x))


@pytest.mark.parametrize("begin", [[1, 2], [-2, -1], [0, 0]])
def test_slice_by_index_down_to_a_scalar(begin):
    def build(x):
        return mb.slice_by_index(x=x, begin=begin, end=[0, 0], squeeze_mask=[True, True])

    same(evaluated(build, numbered(2, 3)), inferred(build, numbered(2, 3)))


def test_slice_by_index_of_higher_rank():
    def build(x):
        return mb.slice_by_index(x=x, begin=[0, 1, 2, 0, 1], end=[2, 2, 0, 2, 0], stride=[1, 1, -1, 2, -1])

    same(evaluated(build, numbered(2, 2, 3, 2, 2)), [numbered(2, 2, 3, 2, 2)[0:2, 1:2, 2:0:-1, 0:2:2, 1:0:-1]])


def test_slice_by_index_with_bounds_that_are_computed():
    def build(x, begin, end):
        return mb.slice_by_index(x=x, begin=begin, end=end, stride=[1, -1])

    x, begin, end = numbered(4, 5), np.array([-3, 3], np.int32), np.array([4, 1], np.int32)
    same(evaluated(build, x, begin, end), [x[-3:4, 3:1:-1]])


@pytest.mark.parametrize("parameters", SLICES[:-1])
def test_slice_update(parameters):
    x = numbered(4, 5, 6)
    part = inferred(lambda x: mb.slice_by_index(x=x, **parameters), x)[0]

    def build(x, update):
        return mb.slice_update(x=x, update=update, **parameters)

    update = 1000 + numbered(*part.shape)
    same(evaluated(build, x, update), inferred(build, x, update))


def test_slice_update_leaves_its_input():
    def build(x, update):
        return mb.slice_update(x=x, update=update, begin=[0], end=[2]), mb.identity(x=x)

    same(evaluated(build, numbered(3), numbered(2) + 9), [np.array([9.0, 10, 2]), numbered(3)])


def test_slices_of_a_scalar():
    scalar = torch.tensor(2.0)
    assert OPS["slice_by_index"].function(scalar, [], []) == 2
    assert OPS["slice_update"].function(scalar, torch.tensor(3.0), [], []) == 3
    assert scalar == 2


def test_slice_update_of_bool():
    x, update = np.zeros((3, 4), bool), np.ones((3, 2), bool)

    def build(x, update):
        return mb.cast(x=mb.slice_update(x=x, update=update, begin=[0, 1], end=[3, 4], stride=[1, 2]), dtype="int32")

    same(evaluated(build, x, update), [np.array([[0, 1, 0, 1]] * 3)])


@pytest.mark.parametrize("step", [-1, 2])
def test_gradients_flow_through_slices(step):
    begin, end = ([3, 0], [0, 2]) if step < 0 else ([0, 0], [4, 2])
    stride = [step, 1]
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    update = torch.randn(abs(begin[0] - end[0]) // abs(step), 2, dtype=torch.float64, requires_grad=True)
    sliced, updated = OPS["slice_by_index"].function, OPS["slice_update"].function
    assert torch.autograd.gradcheck(lambda x: sliced(x, begin, end, stride), x)
    assert torch.autograd.gradcheck(lambda x, u: updated(x, u, begin, end, stride), (x, update))


@pytest.mark.parametrize(
    ("begin", "size"),
    [([1, 0, 2], [2, 3, 1]), ([0, 1, 0], [-1, -1, 4]), ([-3, -2, 3], [1, -1, 1]), ([3, 0, 0], [1] * 3)],
)
def test_slice_by_size(begin, size):
    def build(x):
        return mb.slice_by_size(x=x, begin=begin, size=size)

    same(evaluated(build, numbered(4, 3, 5)), inferred(build, numbered(4, 3, 5)))


def test_slice_by_size_that_is_computed():
    def build(x, begin, size):
        return mb.slice_by_size(x=x, begin=begin, size=size)

    x = numbered(4, 5)
    same(evaluated(build, x, np.array([1, -2], np.int32), np.array([-1, 2], np.int32)), [x[1:, -2:]])


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (2, 1), (3, 2), (4, 3)])
@pytest.mark.parametrize(
    ("shape", "axis"), [((7,), 0), ((2, 5), -1), ((5, 2, 3), 0), ((2, 6, 1, 3), 1), ((2, 4, 5), -2)]
)
def test_sliding_windows(shape, axis, size, stride):
    x = numbered(*shape)
    at = axis % x.ndim
    windows = np.moveaxis(np.lib.stride_tricks.sliding_window_view(x, size, axis=at), -1, at + 1)
    wanted = windows.take(range(0, windows.shape[at], stride), at)
    same(evaluated(lambda x: mb.sliding_windows(x=x, axis=axis, size=size, stride=stride), x), [wanted])


def in_depth(x: np.ndarray, b: int) -> np.ndarray:
    """Blocks of space as channels, as TensorFlow's space_to_depth orders them."""
    n, c, h, w = x.shape
    out = np.empty((n, c * b * b, h // b, w // b), x.dtype)
    for i, j in np.ndindex(b, b):
        out[:, (i * b + j) * c : (i * b + j + 1) * c] = x[:, :, i::b, j::b]
    return out


@pytest.mark.parametrize("block", [2, 3])
def test_space_to_depth_and_back(block):
    x = numbered(2, 3, 2 * block, block)
    deep = in_depth(x, block)
    same(evaluated(lambda x: mb.space_to_depth(x=x, block_size=block), x), [deep])
    same(evaluated(lambda x: mb.depth_to_space(x=x, block_size=block), deep), [x])


def test_space_to_batch_as_coremltools_has_it():
    x = 1 + numbered(2, 1, 2, 4)
    wanted = np.array([[0, 1, 3], [0, 9, 11], [0, 2, 4], [0, 10, 12], [0, 5, 7], [0, 13, 15], [0, 6, 8], [0, 14, 16]])
    found = evaluated(lambda x: mb.space_to_batch(x=x, block_shape=[2, 2], paddings=[[0, 0], [2, 0]]), x)
    same(found, [wanted.reshape(8, 1, 1, 3)])
    back = evaluated(lambda x: mb.batch_to_space(x=x, block_shape=[2, 2], crops=[[0, 0], [2, 0]]), found[0])
    same(back, [x])


@pytest.mark.parametrize(
    ("block", "margins"), [([2, 3], [[1, 0], [0, 2]]), ([1, 2], [[0, 0], [1, 2]]), ([3, 1], [[2, 1], [0, 0]])]
)
def test_space_to_batch_and_back(block, margins):
    x = numbered(2, 3, 3, 1 if block == [2, 3] else 3)
    padded = np.pad(x, [(0, 0), (0, 0), *margins])
    wanted = np.concatenate([padded[:, :, i :: block[0], j :: block[1]] for i, j in np.ndindex(*block)])
    same(evaluated(lambda x: mb.space_to_batch(x=x, block_shape=block, paddings=margins), x), [wanted])
    same(evaluated(lambda x: mb.batch_to_space(x=x, block_shape=block, crops=margins), wanted), [x])


@pytest.mark.parametrize("factor", [2, 3])
def test_pixel_shuffle_and_back(factor):
    against_torch(torch.nn.PixelShuffle(factor), numbered(1, 2 * factor**2, 2, 3))
    x = numbered(1, 2, 2 * factor, factor)
    wanted = torch.nn.functional.pixel_unshuffle(torch.tensor(x), factor).numpy()
    same(evaluated(lambda x: mb.pixel_unshuffle(x=x, downscale_factor=np.uint32(factor)), x), [wanted])
    channels = [x[:, c, i::factor, j::factor] for c in range(2) for i in range(factor) for j in range(factor)]
    same([wanted], [np.stack(channels, axis=1)])


FUNCTIONS = {
    "slice": lambda x: x[:, 1::2, -1],
    "flip": lambda x: torch.flip(x, [0, 2]),
    "permute": lambda x: x.permute(2, 0, 1),
    "flatten": lambda x: x.flatten(1),
    "narrow": lambda x: x.narrow(1, 1, 2),
    "unsqueeze": lambda x: x.unsqueeze(-1).squeeze(-1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_torch(name):
    against_torch(Module(FUNCTIONS[name]), numbered(2, 4, 3))
