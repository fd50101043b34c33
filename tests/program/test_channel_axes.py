"""Where output channels lie in a weight: by the op that reads it, and back through shape ops."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from coremltools.converters.mil.frontend.milproto.load import load as load_pymil
from coremltools.optimize._utils import select_input_output_channel_axis
from hypothesis import given, settings
from hypothesis import strategies as st
from mil_messages import const, op, program, surveyed, value, weights
from packages import read_spec, weights_dir

from mil_palettize.program.channel_axes import TRANSPARENT, axis_before, output_channel_axis

# The op that reads the weight


@pytest.mark.parametrize(
    ("op_type", "input_name", "shape", "flags", "axis"),
    [
        ("conv", "weight", (64, 16, 3, 3), {}, 0),
        ("conv", "weight", (64, 16, 3), {}, 0),
        ("conv_transpose", "weight", (64, 16, 3, 3), {}, 1),
        ("conv_transpose", "weight", (64, 16, 3), {}, 1),
        ("linear", "weight", (64, 48), {}, 0),
        ("matmul", "y", (64, 48), {}, 1),
        ("matmul", "y", (64, 48), {"transpose_x": True}, 1),
        ("matmul", "y", (64, 48), {"transpose_y": False}, 1),
        ("matmul", "y", (64, 48), {"transpose_y": True}, 0),
        ("matmul", "x", (64, 48), {}, 0),
        ("matmul", "x", (64, 48), {"transpose_y": True}, 0),
        ("matmul", "x", (64, 48), {"transpose_x": True}, 1),
        ("matmul", "y", (4, 16, 48), {}, 2),
        ("matmul", "y", (4, 16, 48), {"transpose_y": True}, 1),
        ("matmul", "x", (2, 4, 16, 48), {}, 2),
        ("matmul", "x", (2, 4, 16, 48), {"transpose_x": True}, 3),
        ("lstm", "weight_ih", (64, 48), {}, 0),
        ("lstm", "weight_hh_back", (64, 48), {}, 0),
        ("gru", "weight_hh", (64, 48), {}, 0),
        ("rnn", "weight_ih", (64, 48), {}, 0),
        ("gather", "x", (64, 48), {}, 0),
        ("einsum", "values", (64, 48), {}, 0),
        ("future_op", "anything", (64, 48), {}, 0),
    ],
)
@pytest.mark.parametrize("bound", ["in place", "by const"])
def test_axis_of_op(op_type: str, input_name: str, shape: tuple, flags: dict, axis: int, bound: str) -> None:
    flag_ops = [const(f"{name}_0", np.bool_(flag)) for name, flag in flags.items()] if bound == "by const" else []
    inputs = {input_name: "w"} | {
        name: f"{name}_0" if bound == "by const" else value(np.bool_(flag)) for name, flag in flags.items()
    }
    made = program(const("w", shape=shape), *flag_ops, op(op_type, "reader", inputs))
    (consumer,) = weights(made)["w"].consumers
    assert consumer.channel_axis == axis


def test_ranks_without_such_an_axis() -> None:
    assert output_channel_axis("conv_transpose", "weight", 1, {}) is None
    assert output_channel_axis("matmul", "y", 1, {}) == 0
    assert output_channel_axis("matmul", "x", 1, {}) is None
    assert output_channel_axis("linear", "weight", 0, {}) is None


@pytest.mark.parametrize(
    "name", ["conv_fp16_ios18", "recurrent_fp16_ios17", "embedding_matmul_ios16", "shared_ios16", "stateful_ios18"]
)
def test_axes_are_those_of_coremltools(name: str, fixtures: Path) -> None:
    """For every constant of rank 2 and more of a whole package."""
    package = fixtures / f"{name}.mlpackage"
    spec = read_spec(package)
    main = load_pymil(spec, spec.specificationVersion, str(weights_dir(package))).functions["main"]
    found = {site.weight.name: site.weight for site in surveyed(spec.mlProgram).sites}
    seen = 0
    for const_op in main.find_ops(op_type="const"):
        weight = found[const_op.outputs[0].name]
        if len(weight.shape) < 2 or not weight.consumers:
            continue
        axes = {consumer.channel_axis for consumer in weight.consumers}
        assert select_input_output_channel_axis(const_op)[1] == (axes.pop() if len(axes) == 1 else None), weight.key
        seen += 1
    assert seen >= 2


# Back through shape ops


def run(op_type: str, array: np.ndarray, params: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What the op makes of one data input, as its MIL documentation says (numpy)."""

    def ints(name: str) -> list[int]:
        return [int(i) for i in params[name].reshape(-1)]

    if op_type == "transpose":
        return [array.transpose(ints("perm"))]
    if op_type == "reshape":
        return [array.reshape(ints("shape"))]
    if op_type == "squeeze":
        return [np.squeeze(array, tuple(ints("axes")))]
    if op_type == "expand_dims":
        return [np.expand_dims(array, tuple(ints("axes")))]
    if op_type == "reverse":
        return [np.flip(array, tuple(ints("axes")))]
    if op_type == "split":
        return np.split(array, 2, ints("axis")[0])
    if op_type == "concat":
        return [np.concatenate([array, np.full_like(array, -1)], ints("axis")[0])]
    if op_type == "stack":
        return [np.stack([array, np.full_like(array, -1)], ints("axis")[0])]
    if op_type in ("slice_by_index", "slice_by_size"):
        sizes = params.get("end", params.get("size"))
        return [array[tuple(slice(0, int(end)) for end in sizes)]]
    assert op_type in ("cast", "identity")
    return [array]


def true_axes(op_type: str, shape: Sequence[int], axis: int, params: dict[str, np.ndarray]) -> list[set[int]]:
    """For each output, the input axes whose positions the output's ``axis`` tells apart, one to one.

    Elements of the input are labelled with their position along an axis; -1 comes from elsewhere.
    """
    found: list[set[int]] = []
    for candidate, size in enumerate(shape):
        labels = np.broadcast_to(
            np.arange(size).reshape([-1 if a == candidate else 1 for a in range(len(shape))]), shape
        )
        for number, output in enumerate(run(op_type, np.ascontiguousarray(labels), params)):
            if number == len(found):
                found.append(set())
            rows = np.moveaxis(output, axis, 0).reshape(output.shape[axis], -1)
            ours = [row[row >= 0] for row in rows if (row >= 0).any()]
            position = [row[0] for row in ours if (row == row[0]).all()]
            if len(position) == len(ours) == len(set(position)):
                found[number].add(candidate)
    return found


SHAPE_OPS = [
    *("transpose", "reshape", "squeeze", "expand_dims", "reverse", "split"),
    *("concat", "stack", "slice_by_index", "slice_by_size", "cast", "identity"),
]


def test_every_shape_op_is_tried() -> None:
    assert set(SHAPE_OPS) == TRANSPARENT.keys()


@st.composite
def shape_ops(draw: st.DrawFn) -> tuple[str, tuple[int, ...], dict[str, np.ndarray]]:
    """An op type, the shape of its input, and its other inputs."""
    shape = draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4).map(tuple))
    op_type = draw(st.sampled_from(SHAPE_OPS))
    rank = len(shape)
    axis = draw(st.integers(-rank, rank - 1))
    if op_type == "transpose":
        perm = draw(st.permutations(range(rank)))
        return op_type, shape, {"perm": np.array([p - draw(st.sampled_from([0, rank])) for p in perm])}
    if op_type == "reshape":
        return op_type, shape, {"shape": np.array(draw(st.sampled_from(factorings(int(np.prod(shape))))))}
    if op_type == "squeeze":
        shape = (*shape[: axis % rank], 1, *shape[axis % rank :])
        return op_type, shape, {"axes": np.array([axis % rank])}
    if op_type == "expand_dims":
        return op_type, shape, {"axes": np.array([axis])}
    if op_type == "split":
        shape = tuple(2 * size if a == axis % rank else size for a, size in enumerate(shape))
        return op_type, shape, {"axis": np.array(axis)}
    if op_type == "reverse":
        return op_type, shape, {"axes": np.array([axis])}
    if op_type in ("concat", "stack"):
        return op_type, shape, {"axis": np.array(axis)}
    if op_type.startswith("slice"):
        ends = np.array([draw(st.integers(1, size)) for size in shape])
        return op_type, shape, {"end" if op_type == "slice_by_index" else "size": ends}
    return op_type, shape, {}


def factorings(count: int) -> list[tuple[int, ...]]:
    """Shapes of up to three axes that hold ``count`` elements."""
    divisors = [d for d in range(1, count + 1) if count % d == 0]
    pairs = [(a, count // a) for a in divisors]
    return [(count,), *pairs, *((a, b, count // a // b) for a in divisors for b in divisors if count // a % b == 0)]


@settings(max_examples=400, deadline=None, derandomize=True)
@given(shape_ops())
def test_axis_before_tells_the_same_channels_apart(made: tuple[str, tuple[int, ...], dict[str, np.ndarray]]) -> None:
    op_type, shape, params = made
    for number, output in enumerate(run(op_type, np.zeros(shape), params)):
        for axis, size in enumerate(output.shape):
            found = axis_before(op_type, axis, params, shape, output.shape)
            true = true_axes(op_type, shape, axis, params)[number]
            if found is not None:
                assert found in true
            elif size > 1 and op_type != "stack":
                assert not true


def test_axis_before_without_an_axis() -> None:
    assert axis_before("cast", None, {}, (2, 3), (2, 3)) is None
    assert axis_before("cast", 2, {}, (2, 3), (2, 3)) is None
    assert axis_before("transpose", 0, {}, (2, 3), (3, 2)) is None
    # slice_by_index with a squeeze_mask: which axis went is not looked at.
    assert axis_before("slice_by_index", 0, {}, (1, 2, 3), (2, 3)) is None
