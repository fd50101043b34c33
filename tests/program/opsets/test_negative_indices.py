"""Gathers and scatters keep what they compute when negative indices go out of bounds (iOS17)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import types
from coremltools.proto import MIL_pb2 as MIL
from opset_programs import block_of, built, loaded, moved, op_named, unchanged, values_of


class Case(NamedTuple):
    op: str
    data: tuple[int, ...]
    indices: tuple[int, ...]
    params: dict = {}  # noqa: RUF012
    opset: str = "iOS15"
    dtype: type = types.int32
    dynamic: tuple[int, ...] = ()  # axes of data of unknown size


CASES = {
    "scalar index": Case("gather", (5, 3), ()),
    "axis": Case("gather", (5, 3), (4,), {"axis": 1}),
    "negative axis": Case("gather", (2, 5, 3), (2, 2), {"axis": -2}),
    "batch": Case("gather", (2, 5, 3), (2, 4), {"axis": 1, "batch_dims": 1}, "iOS16"),
    "dynamic axis": Case("gather", (2, 5, 3), (4,), {"axis": 1}, dynamic=(1,)),
    "dynamic scalar": Case("gather", (5, 3), (), {"axis": -2}, dynamic=(0,)),
    "dynamic elsewhere": Case("gather", (2, 5, 3), (4,), {"axis": 1}, dynamic=(0,)),
    "dynamic batch": Case("gather", (2, 5, 3), (2, 4), {"axis": 2, "batch_dims": 1}, "iOS16", dynamic=(2,)),
    "int16": Case("gather", (5, 3), (4,), {}, "iOS16", types.int16),
    "int16 overflow": Case("gather", (40000, 1), (4,), {}, "iOS16", types.int16),
    "along axis": Case("gather_along_axis", (4, 3), (4, 2), {"axis": 1}),
    "along negative axis": Case("gather_along_axis", (4, 3), (6, 3), {"axis": -2}),
    "nd": Case("gather_nd", (4, 3, 2), (5, 2)),
    "nd all axes": Case("gather_nd", (4, 3), (2, 2, 2)),
    "nd dynamic": Case("gather_nd", (4, 3, 2), (5, 2), dynamic=(1,)),
    "nd dynamic one": Case("gather_nd", (4, 3), (5, 1), dynamic=(0,)),
    "nd batch": Case("gather_nd", (2, 4, 3), (2, 5, 1), {"batch_dims": 1}, "iOS16"),
    "nd batch dynamic": Case("gather_nd", (2, 4, 3), (2, 5, 2), {"batch_dims": 1}, "iOS16", dynamic=(1,)),
    "scatter": Case("scatter", (5, 3), (4,), {"axis": 0, "mode": "add"}),
    "scatter axis": Case("scatter", (2, 5, 3), (4,), {"axis": -2, "mode": "update"}),
    "scatter dynamic": Case("scatter", (2, 5, 3), (4,), {"axis": 2, "mode": "add"}, dynamic=(2,)),
    "scatter along": Case("scatter_along_axis", (4, 3), (2, 3), {"axis": 0, "mode": "add"}),
    "scatter nd": Case("scatter_nd", (4, 3, 2), (5, 2), {"mode": "add"}),
    "scatter nd one": Case("scatter_nd", (4, 3), (5, 1), {"mode": "update"}),
}


def axis_sizes(case: Case) -> np.ndarray:
    """The size of the dimension each index points into (op docstrings), in the shape of the indices."""
    sizes = np.array(case.data)
    if case.op.endswith("_nd"):
        batch = case.params.get("batch_dims", 0)
        return np.broadcast_to(sizes[batch : batch + case.indices[-1]], case.indices)
    return np.broadcast_to(sizes[case.params.get("axis", 0)], case.indices)


def random_indices(case: Case) -> np.ndarray:
    """Legal values, the first, the last and the most negative one among them; at least one negative."""
    dtype, sizes = types.nptype_from_builtin(case.dtype), axis_sizes(case)
    low = np.maximum(-sizes, np.iinfo(dtype).min)
    high = np.minimum(sizes - 1, np.iinfo(dtype).max)
    pick = np.random.default_rng(5).integers(low, high, endpoint=True)
    flat = np.arange(pick.size).reshape(pick.shape) % 4
    return np.select([flat == 0, flat == 1, flat == 2], [low, high, 0 * low - 1], pick).astype(dtype)


def result(case: Case, data: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """What the op computes where negative indices count from the end, as numpy's do."""
    batch, axis = case.params.get("batch_dims", 0), case.params.get("axis", 0) % data.ndim
    if case.op == "gather" and batch:
        return np.stack([np.take(d, i, axis=axis - 1) for d, i in zip(data, indices, strict=True)])
    if case.op == "gather":
        return np.take(data, indices, axis=axis)
    if case.op == "gather_along_axis":
        return np.take_along_axis(data, indices, axis)
    if case.op == "gather_nd":
        return np.stack([data[(*at[:batch], *indices[at])] for at in np.ndindex(*indices.shape[:-1])])
    return scattered(case, data, indices, axis)


def updates_shape(case: Case) -> tuple[int, ...]:
    if case.op == "scatter_nd":
        return case.indices[:-1] + case.data[case.indices[-1] :]
    if case.op == "scatter_along_axis":
        return case.indices
    axis = case.params["axis"] % len(case.data)
    return case.data[:axis] + case.indices + case.data[axis + 1 :]


def scattered(case: Case, data: np.ndarray, indices: np.ndarray, axis: int) -> np.ndarray:
    """Scatters of distinct updates, one element at a time."""
    out, lead = data.copy(), indices.ndim - 1
    updates = np.arange(1, 1 + np.prod(updates_shape(case))).reshape(updates_shape(case))
    for at in np.ndindex(*updates.shape):
        if case.op == "scatter_nd":
            to = (*indices[at[:lead]], *at[lead:])
        else:
            index = indices[at[axis]] if case.op == "scatter" else indices[at]
            to = (*at[:axis], index, *at[axis + 1 :])
        out[to] = updates[at] + (out[to] if case.params["mode"] == "add" else 0)
    return out


def indexing_program(case: Case, weights: Path, constant: np.ndarray | None = None) -> MIL.Program:
    """``out``: the case's op on inputs ``data`` and ``idx`` (or a constant), between ops of no concern."""

    def body(data, idx):
        before = mb.relu(x=data, name="before")
        params = dict(case.params)
        if case.op.startswith("scatter"):
            params |= {"data": data, "updates": np.zeros(updates_shape(case), np.float32)}
        else:
            params["x"] = data
        indices = idx if case.indices else mb.squeeze(x=idx, axes=[0])
        if constant is not None:
            indices = mb.const(val=constant, name="fixed")
        out = getattr(mb, case.op)(indices=indices, name="out", **params)
        return mb.relu(x=out, name="after"), before, mb.identity(x=indices, name="seen")

    specs = [mb.TensorSpec(case.data), mb.TensorSpec(case.indices or (1,), dtype=case.dtype)]
    program = built(body, specs, case.opset, weights)
    for axis in case.dynamic:
        program.functions["main"].inputs[0].type.tensorType.dimensions[axis].unknown.variadic = False
    if "axis" not in case.params and "axis" in op_named(block_of(program), "out").inputs:
        del op_named(block_of(program), "out").inputs["axis"]
    return program


def indices_name(program: MIL.Program, op: str = "out") -> str:
    return op_named(block_of(program), op).inputs["indices"].arguments[0].name


def check_meaning(case: Case, program: MIL.Program, after: MIL.Program, weights: Path, idx: np.ndarray) -> None:
    """The moved op reads indices that are in bounds and mean the same elements."""
    data = np.random.default_rng(1).standard_normal(case.data).astype(np.float32)
    values = values_of(after, weights, {"data": data, "idx": idx.reshape(case.indices or (1,))})
    read = np.asarray(values[indices_name(after)])
    assert read.dtype == np.int32
    assert read.shape == case.indices
    assert np.all((read >= 0) & (read < axis_sizes(case)))
    expected = result(case, data, idx)
    np.testing.assert_array_equal(result(case, data, read), expected)
    if "out" in values and case.op.startswith("gather"):  # coremltools evaluates some of these itself
        np.testing.assert_array_equal(values["out"], expected)
    np.testing.assert_array_equal(values["seen"], idx)
    unchanged(program, after, {"out"})


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_run_time_indices_go_through_a_select(case: Case, tmp_path: Path) -> None:
    program, idx = indexing_program(case, tmp_path), random_indices(case)
    assert np.any(idx < 0)
    after, move = moved(program, "iOS17")
    assert [(c.function, c.op_name, c.op_type) for c in move.changes] == [("main", "out", case.op)]
    assert move.changes[0].what.startswith("select(index >= 0, index, index + ")
    check_meaning(case, program, after, tmp_path, idx)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_negative_constant_indices_become_another_constant(case: Case, tmp_path: Path) -> None:
    idx = random_indices(case)
    program = indexing_program(case, tmp_path, idx)
    after, move = moved(program, "iOS17")
    assert len(move.changes) == 1
    check_meaning(case, program, after, tmp_path, idx)
    known = move.changes[0].what.startswith("constant indices below 0 replaced")
    new_types = {op.type for op in block_of(after).operations} - {op.type for op in block_of(program).operations}
    assert known == (not new_types & {"select"})


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_constant_indices_without_negatives_stay(case: Case, tmp_path: Path) -> None:
    idx = np.maximum(random_indices(case), 0)
    program = indexing_program(case, tmp_path, idx)
    after, move = moved(program, "iOS17")
    assert move.changes == ()
    unchanged(program, after, set())
    loaded(after, tmp_path)


def changes_of(body, specs: list, weights: Path, opset: str = "iOS16") -> tuple[str, ...]:
    """Names of the ops a move to iOS17 changes; the moved program must load."""
    after, move = moved(built(body, specs, opset, weights), "iOS17")
    loaded(after, weights)
    return tuple(change.op_name for change in move.changes)


def test_unsigned_indices_stay(tmp_path: Path) -> None:
    specs = [mb.TensorSpec((5, 3)), mb.TensorSpec((4,), dtype=types.uint16)]
    assert changes_of(lambda x, idx: mb.gather(x=x, indices=idx), specs, tmp_path) == ()


PROVABLE = {
    "argmax": (True, lambda x, i: mb.reduce_argmax(x=x, axis=1)),
    "argmin": (True, lambda x, i: mb.reduce_argmin(x=x, axis=0)),
    "argsort": (True, lambda x, i: mb.argsort(x=x)),
    "topk indices": (True, lambda x, i: mb.topk(x=x, k=2)[1]),
    "topk values": (False, lambda x, i: mb.topk(x=i, k=2)[0]),
    "non_zero": (True, lambda x, i: mb.non_zero(x=x)),
    "shape": (True, lambda x, i: mb.shape(x=x)),
    "range up": (True, lambda x, i: mb.range_1d(start=0, end=i0(i), step=1)),
    "range from -1": (False, lambda x, i: mb.range_1d(start=-1, end=i0(i), step=1)),
    "range down to 0": (True, lambda x, i: mb.range_1d(start=4, end=-1, step=mb.const(val=-1))),
    "range down past 0": (False, lambda x, i: mb.range_1d(start=4, end=-2, step=-1)),
    "range run-time step": (False, lambda x, i: mb.range_1d(start=0, end=-3, step=i0(i))),
    "through shape ops": (True, lambda x, i: mb.transpose(x=mb.squeeze(x=mb.argsort(x=x)), perm=[1, 0])),
    "half of a concat": (False, lambda x, i: mb.concat(values=[mb.reduce_argmax(x=x, axis=1), i], axis=0)),
    "whole concat": (True, lambda x, i: mb.concat(values=[mb.reduce_argmin(x=x), mb.shape(x=x)], axis=0)),
    "maximum with 0": (True, lambda x, i: mb.maximum(x=i, y=0)),
    "maximum with -1": (False, lambda x, i: mb.maximum(x=i, y=-1)),
    "minimum with 0": (False, lambda x, i: mb.minimum(x=i, y=0)),
    "one less": (False, lambda x, i: mb.sub(x=mb.shape(x=x), y=1)),
    "select of both": (True, lambda x, i: mb.select(cond=mb.greater(x=i, y=2), a=mb.shape(x=x), b=[0, 1])),
    "select of one": (False, lambda x, i: mb.select(cond=mb.greater(x=i, y=2), a=mb.sub(x=i, y=9), b=[0, 1])),
    "cast from float": (False, lambda x, i: mb.cast(x=mb.relu(x=x), dtype="int32")),
    "input": (False, lambda x, i: i),
}  # fmt: skip


def i0(i):
    return mb.squeeze(x=mb.slice_by_size(x=i, begin=[0], size=[1]), axes=[0])


@pytest.mark.parametrize(("proven", "source"), PROVABLE.values(), ids=PROVABLE.keys())
def test_only_indices_proven_non_negative_stay(proven: bool, source, tmp_path: Path) -> None:
    def body(x, i):
        return mb.gather(x=x, indices=source(x, i), name="out")

    specs = [mb.TensorSpec((5, 5)), mb.TensorSpec((2,), dtype=types.int32)]
    assert changes_of(body, specs, tmp_path) == (() if proven else ("out",))


def test_nested_blocks_are_guarded_where_they_stand(tmp_path: Path) -> None:
    """The data comes from outside the loop, the index is a loop variable."""

    def body(x, i):
        def loop(k):
            row = mb.gather(x=x, indices=k, name="inner")
            return mb.add(x=k, y=mb.cast(x=mb.reduce_max(x=row, axes=[0, 1]), dtype="int32"))

        def more(k):
            return mb.squeeze(x=mb.less(x=k, y=7), axes=[0])

        return mb.while_loop(_cond=more, _body=loop, loop_vars=[i])

    specs = [mb.TensorSpec((5, 3)), mb.TensorSpec((1,), dtype=types.int32)]
    after, move = moved(built(body, specs, "iOS15", tmp_path), "iOS17")
    assert [change.op_name for change in move.changes] == ["inner"]
    (loop_op,) = [op for op in block_of(after).operations if op.type == "while_loop"]
    inside = [op.type for op in loop_op.blocks[1].operations if op.type != "const"]
    assert inside[:4] == ["greater_equal", "add", "select", "gather"]
    loaded(after, tmp_path)


def test_new_names_avoid_every_name_of_the_function(tmp_path: Path) -> None:
    def body(x, i):
        taken = mb.relu(x=x, name="g_indices")
        return mb.gather(x=taken, indices=i, name="g"), mb.gather(x=x, indices=i, name="g_indices_1")

    specs = [mb.TensorSpec((5, 3)), mb.TensorSpec((2,), dtype=types.int32)]
    after, _ = moved(built(body, specs, "iOS15", tmp_path), "iOS17")
    names = [output.name for op in block_of(after).operations for output in op.outputs]
    assert len(names) == len(set(names))
    assert indices_name(after, "g") == "g_indices_2"
    idx = np.array([-1, 1], np.int32)
    values = values_of(after, tmp_path, {"x": np.zeros((5, 3), np.float32), "i": idx})
    np.testing.assert_array_equal(values["g_indices_2"], [4, 1])


def test_indices_bound_as_a_value_read_like_a_constant(tmp_path: Path) -> None:
    case = CASES["axis"]
    idx = random_indices(case)
    program = indexing_program(case, tmp_path, idx)
    gather = op_named(block_of(program), "out").inputs["indices"].arguments[0]
    gather.value.CopyFrom(op_named(block_of(program), "fixed").attributes["val"])
    after, move = moved(program, "iOS17")
    assert len(move.changes) == 1
    check_meaning(case, program, after, tmp_path, idx)


def test_missing_defaults_are_axis_0(tmp_path: Path) -> None:
    program = indexing_program(CASES["scalar index"], tmp_path)
    assert "axis" not in op_named(block_of(program), "out").inputs
    _, move = moved(program, "iOS17")
    assert "index + 5)" in move.changes[0].what


def test_proofs_are_short(tmp_path: Path) -> None:
    """A chain that doubles at every step is given up on, and guarded: no exponential search."""

    def body(x):
        found = mb.argsort(x=x)
        for _ in range(40):
            found = mb.minimum(x=found, y=found)
        return mb.gather(x=x, indices=found, name="out")

    assert changes_of(body, [mb.TensorSpec((5,))], tmp_path) == ("out",)
