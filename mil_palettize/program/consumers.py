"""From a constant to the ops that really use it: through const-only shape ops, casts and loop arguments."""

from __future__ import annotations

from mil_palettize.program.channel_axes import CONVOLUTIONS, axis_before, output_channel_axis
from mil_palettize.program.op_names import op_name
from mil_palettize.program.scopes import Node, Use
from mil_palettize.program.weight import Consumer


def consumers(node: Node) -> tuple[Consumer, ...]:
    """Every op that uses the constant ``node``, in program order; what only hands it on is in their ``path``."""
    return tuple(c for use in node.uses for c in _through(node, use))


def _through(node: Node, use: Use) -> list[Consumer]:
    # What leaves the block is used out there: the op that makes it is the last one known.
    leaves = any(following.op is use.op and following.is_block_output for following in use.leads_to)
    found = [] if use.leads_to and not leaves else [_user(node, use)]
    for following in use.leads_to:
        for consumer in consumers(following):
            axis = _axis_back(use, consumer.channel_axis, node, following)
            path = ((use.op.type, op_name(use.op)), *consumer.path)
            found.append(Consumer(consumer.op_type, consumer.op_name, consumer.input_name, axis, path, consumer.groups))
    return found


def _user(node: Node, use: Use) -> Consumer:
    axis = output_channel_axis(use.op.type, use.input_name, len(node.shape or ()), use.params)
    groups = use.params.get("groups") if use.op.type in CONVOLUTIONS else None
    count = int(groups.reshape(-1)[0]) if groups is not None and groups.size else 1
    return Consumer(use.op.type, op_name(use.op), use.input_name, axis, groups=max(1, count))


def _axis_back(use: Use, axis: int | None, node: Node, following: Node) -> int | None:
    if use.op.type == "while_loop":
        return axis
    if node.shape is None or following.shape is None:
        return None
    return axis_before(use.op.type, axis, use.params, node.shape, following.shape)
