"""Channel axes: where an op's output channels lie in its weight, and how const-only ops move them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Params = Mapping[str, np.ndarray | None]
Shape = tuple[int, ...]


def output_channel_axis(op_type: str, input_name: str, rank: int, params: Params) -> int | None:
    """Axis of the output channels in the constant that ``op_type`` reads through ``input_name``.

    As coremltools' ``select_input_output_channel_axis``: conv_transpose 1, matmul by its transpose flags,
    everything else 0. None when the constant's rank has no such axis.
    """
    if op_type == "conv_transpose":
        axis = 1
    elif op_type == "matmul":
        transposed = _flag(params.get(f"transpose_{input_name}"))
        last = transposed if input_name == "x" else not transposed
        axis = rank - 1 if last else rank - 2
    else:
        axis = 0
    return axis if 0 <= axis < rank else None


def _flag(value: np.ndarray | None) -> bool:
    return value is not None and value.size > 0 and bool(value.reshape(-1)[0])


def _through_transpose(axis: int, params: Params, before: Shape, after: Shape) -> int | None:
    perm = params.get("perm")
    if perm is None or perm.size != len(before) or axis >= perm.size:
        return None
    return int(perm.reshape(-1)[axis]) % len(before)


def _through_reshape(axis: int, params: Params, before: Shape, after: Shape) -> int | None:
    """The axis of ``before`` with the same extent and the same number of elements in front of it."""
    lead = math.prod(after[:axis])
    for candidate, size in enumerate(before):
        if size == after[axis] and math.prod(before[:candidate]) == lead:
            return candidate
    return None


def _unchanged(axis: int, params: Params, before: Shape, after: Shape) -> int | None:
    return axis if axis < len(before) and len(before) == len(after) else None


# Ops whose output is the same values rearranged, cut, joined or cast: data inputs, and the way back for an axis.
# All other inputs of theirs have to be constants too for the output to be one.
AxisMap = Callable[[int, Params, Shape, Shape], "int | None"]
TRANSPARENT: dict[str, tuple[str, AxisMap]] = {
    "cast": ("x", _unchanged),
    "identity": ("x", _unchanged),
    "transpose": ("x", _through_transpose),
    "reshape": ("x", _through_reshape),
    "squeeze": ("x", _through_reshape),
    "expand_dims": ("x", _through_reshape),
    "split": ("x", _unchanged),
    "slice_by_index": ("x", _unchanged),
    "slice_by_size": ("x", _unchanged),
    "concat": ("values", _unchanged),
    "stack": ("values", lambda axis, params, before, after: None),
    "reverse": ("x", _unchanged),
}
CONVOLUTIONS = frozenset({"conv", "conv_transpose"})
# Ops whose small constant inputs decide where channels lie, or how they are grouped.
NEED_PARAMS = frozenset({*TRANSPARENT, *CONVOLUTIONS, "matmul"})


def axis_before(
    op_type: str, axis: int | None, params: Params, before: Sequence[int], after: Sequence[int]
) -> int | None:
    """The axis of the op's input that its output's ``axis`` comes from; None when there is no single one."""
    if axis is None or axis >= len(after):
        return None
    return TRANSPARENT[op_type][1](axis, params, tuple(before), tuple(after))
