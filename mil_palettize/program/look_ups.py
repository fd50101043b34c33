"""Tables that are looked up by run-time indices: what for, and with which indices."""

from __future__ import annotations

import re

from mil_palettize.program.op_names import op_name
from mil_palettize.program.scopes import Node, Read, Use
from mil_palettize.program.values import scalar

# Op type -> the input that is the table.
LOOK_UPS = {"gather": "x", "gather_along_axis": "x", "gather_nd": "x"}
# Ops that hand values on in another shape or type.
_HANDS_ON = frozenset(
    {"cast", "concat", "expand_dims", "identity", "reshape", "select", "slice_by_index", "slice_by_size", "split",
     "squeeze", "stack", "tile", "transpose"}
)  # fmt: skip
_ROTARY = re.compile(r"(^|[_/])(cos|sin|rope|rotary|freqs)([_\d/]|$)")
_MOST_STEPS = 1000  # that are followed


def is_rotary(table: Node, use: Use) -> bool:
    """Whether what ``use`` looks up in a table only multiplies what the model computes: more than once, as cosines and
    sines of rotary positions do of queries and keys, or once where the name says so. (An embedding that is scaled is
    multiplied by a constant, one that is masked is once.)"""
    if use.input_name != LOOK_UPS.get(use.op.type) or not _is_computed(use, "indices"):
        return False
    users = _users(use)
    if not users or not all(one.op.type == "mul" and _is_computed(one, _other(one)) for one in users):
        return False
    products = {id(one.op) for one in users}
    return len(products) > 1 or any(_ROTARY.search(name.lower()) for name in (table.name, op_name(use.op)))


def rows_looked_up(node: Node) -> int | None:
    """How many rows the smallest constant table has that ``node`` holds indices into; None where it is used for none,
    or something is computed of it first."""
    rows = []
    seen = {node}
    waiting = [node]
    while waiting and len(seen) < _MOST_STEPS:
        for use in waiting.pop().uses:
            if use.op.type in LOOK_UPS and use.input_name == "indices":
                rows += _rows(use)
            elif use.op.type in _HANDS_ON:
                new = [result for result in use.results if result not in seen]
                seen.update(new)
                waiting += new
    return min(rows, default=None)


def _rows(use: Use) -> list[int]:
    """Of the constant table of a look-up, along the axis that is looked up; [] where it has none."""
    bound = {read.input_name: read for read in use.reads}
    table, axis = bound["x"].node if "x" in bound else None, bound.get("axis")
    along = 0 if axis is None else _whole(axis)
    if table is None or not table.constant or table.shape is None or along is None:
        return []
    return [table.shape[along]] if -len(table.shape) <= along < len(table.shape) else []


def _whole(read: Read) -> int | None:
    """The constant number that is read, None for anything else."""
    value = read.value
    if read.node is not None and read.node.op is not None and read.node.op.type == "const":
        value = read.node.op.attributes.get("val")
    found = None if value is None else scalar(value)
    return found if isinstance(found, int) else None


def _users(use: Use) -> list[Use]:
    """Everything that reads what an op gives, behind ops that only hand it on; [] where that cannot be told."""
    found: list[Use] = []
    seen: set[Node] = set(use.results)
    waiting = list(use.results)
    while waiting:
        node = waiting.pop()
        if node.is_block_output or len(seen) > _MOST_STEPS:
            return []
        for one in node.uses:
            if one.op.type not in _HANDS_ON:
                found.append(one)
                continue
            new = [result for result in one.results if result not in seen]
            seen.update(new)
            waiting += new
    return found


def _other(use: Use) -> str:
    return "y" if use.input_name == "x" else "x"


def _is_computed(use: Use, input_name: str) -> bool:
    return any(read.input_name == input_name and not read.constant for read in use.reads)
