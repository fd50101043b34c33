"""What can be said of a tensor's elements without running the program: never negative, never zero.

Only short and certain proofs: an unanswered question is a no. Sources: the op docstrings of coremltools
``mil/ops/defs``; an op listed here returns indices, sizes or a selection of its input's elements.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mil_palettize.program.opsets.operands import Operand
from mil_palettize.program.values import DT, NUMPY_TYPES

_MAX_STEPS = 128
_INT32 = DT.Value("INT32")

# Every element of the output is an element of the input named here.
_SELECTIONS: dict[str, tuple[str, ...]] = {
    "identity": ("x",), "reshape": ("x",), "squeeze": ("x",), "expand_dims": ("x",), "transpose": ("x",),
    "slice_by_index": ("x",), "slice_by_size": ("x",), "split": ("x",), "tile": ("x",), "reverse": ("x",),
    "gather": ("x",), "concat": ("values",), "stack": ("values",), "select": ("a", "b"),
    "minimum": ("x", "y"),
}  # fmt: skip
_INDEX_OPS = frozenset({"argsort", "non_zero", "reduce_argmax", "reduce_argmin"})


def is_unsigned(data_type: int | None) -> bool:
    """Whether a MIL data type is bool or an unsigned integer."""
    dtype = NUMPY_TYPES.get(data_type) if data_type is not None else None
    return dtype is not None and dtype.kind in "ub"


def never_negative(operand: Operand) -> bool:
    """Whether every element is provably >= 0."""
    return _Proof(lambda array: bool(np.all(array >= 0)), _source_never_negative).holds(operand)


def never_zero(operand: Operand) -> bool:
    """Whether every element is provably != 0."""
    return _Proof(lambda array: bool(np.all(array != 0)), _source_never_zero).holds(operand)


@dataclass
class _Proof:
    """A claim about elements: how an integer constant shows it, and which ops do by what they are.

    ``steps`` bounds the work, and so how far back a proof goes."""

    of_array: Callable[[np.ndarray], bool]
    of_source: Callable[[Operand, Callable[[Operand], bool]], bool]
    steps: int = _MAX_STEPS

    def holds(self, operand: Operand) -> bool:
        array, op = operand.array, operand.op
        if array is not None:
            return bool(array.dtype.kind in "iu" and self.of_array(array))
        self.steps -= 1
        if op is None or self.steps < 0:
            return False
        if self.of_source(operand, self.holds):
            return True
        if op.type == "cast":
            source = operand.source("x")
            return source is not None and _widens_to_int32(source, operand) and self.holds(source)
        read = [item for name in _SELECTIONS.get(op.type, ()) for item in operand.sources(name)]
        return bool(read) and all(self.holds(item) for item in read)


def _widens_to_int32(source: Operand, target: Operand) -> bool:
    dtype = NUMPY_TYPES.get(source.data_type) if source.data_type is not None else None
    return target.data_type == _INT32 and dtype is not None and np.can_cast(dtype, np.int32)


def _source_never_negative(operand: Operand, deeper: Callable[[Operand], bool]) -> bool:
    op = operand.op
    assert op is not None
    if is_unsigned(operand.data_type) or op.type == "shape" or op.type in _INDEX_OPS:
        return True
    if op.type == "topk":
        return operand.output == 1
    if op.type == "maximum":
        return any(deeper(item) for name in ("x", "y") for item in operand.sources(name))
    if op.type == "range_1d" and operand.data_type == _INT32:
        found = [operand.source(name) for name in ("start", "end", "step")]
        start, end, step = (item.array if item is not None else None for item in found)
        if start is None or step is None or int(start) < 0:
            return False
        return int(step) > 0 or (end is not None and int(end) >= -1)
    return False


def _source_never_zero(operand: Operand, deeper: Callable[[Operand], bool]) -> bool:
    op = operand.op
    assert op is not None
    if op.type == "shape":  # Core ML has no empty tensors, save what non_zero finds nothing in
        return True
    if op.type == "mul":
        factors = [item for name in ("x", "y") for item in operand.sources(name)]
        return len(factors) == 2 and all(deeper(item) for item in factors)
    return False
