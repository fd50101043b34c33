"""From a constant to the ops that really use it: through const-only shape ops, casts and loop arguments."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import islice

from mil_palettize.errors import PackageError
from mil_palettize.program.channel_axes import CONVOLUTIONS, axis_before, output_channel_axis
from mil_palettize.program.look_ups import is_rotary
from mil_palettize.program.op_names import op_name, other_names
from mil_palettize.program.scopes import Node, Use
from mil_palettize.program.weight import Consumer

# More ops than these that hand a constant on, one after the other, or ways through them, are no program's.
LONGEST_PATH = 1000
MOST_WAYS = 100_000
# Of all values of a function together: what many hand on in many ways grows with the product of the two.
MOST_STEPS = 2_000_000


@dataclass
class Known:
    """Consumers of values of one function. ``steps``: ops that these are reached through, in all."""

    found: dict[Node, tuple[Consumer, ...]] = field(default_factory=dict)
    steps: int = 0

    def add(self, node: Node, found: tuple[Consumer, ...]) -> None:
        self.found[node] = found
        self.steps += sum(len(consumer.path) for consumer in found)


def consumers(node: Node, known: Known | None = None) -> tuple[Consumer, ...]:
    """Every op that uses the constant ``node``, in program order; what only hands it on is in their ``path``.

    An op that reads a value twice through one input is one consumer. ``known``: of other values of the same function,
    added to. Raises PackageError where a constant is handed on by more than ``LONGEST_PATH`` ops one after the other,
    or in more than ``MOST_WAYS`` ways, and where those of a function take more than ``MOST_STEPS`` ops in all.
    """
    known = Known() if known is None else known
    waiting = [node]
    while waiting:  # what a value lives on as is declared after it: there are no circles
        current = waiting[-1]
        before = [following for use in current.uses for following in use.leads_to if following not in known.found]
        if before:
            waiting += before
            continue
        waiting.pop()
        if current not in known.found:
            found = (c for use in current.uses for c in _through(current, use, known))
            known.add(current, tuple(dict.fromkeys(islice(found, MOST_WAYS + 1))))
            _check_ways(node, known.found[current], known.steps)
    return known.found[node]


def _check_ways(node: Node, found: tuple[Consumer, ...], steps: int) -> None:
    longest = max((len(consumer.path) for consumer in found), default=0)
    if longest > LONGEST_PATH or len(found) > MOST_WAYS or steps > MOST_STEPS:
        what = f"in more than {MOST_WAYS} ways"
        if longest > LONGEST_PATH:
            what = f"by more than {LONGEST_PATH} ops one after the other"
        elif steps > MOST_STEPS:
            what = f"with others of its function in ways of more than {MOST_STEPS} ops"
        raise PackageError(f"constant {node.name!r} is handed on {what}, which no program needs; simplify the model")


def _through(node: Node, use: Use, known: Known) -> list[Consumer]:
    # What leaves the block is used out there: the op that makes it is the last one known.
    leaves = any(following.op is use.op and following.is_block_output for following in use.leads_to)
    found = [] if use.leads_to and not leaves else [_user(node, use)]
    for following in use.leads_to:
        for consumer in known.found[following]:
            axis = _axis_back(use, consumer.channel_axis, node, following)
            path = ((use.op.type, op_name(use.op)), *consumer.path)
            found.append(replace(consumer, channel_axis=axis, path=path))
    return found


def _user(node: Node, use: Use) -> Consumer:
    axis = output_channel_axis(use.op.type, use.input_name, len(node.shape or ()), use.params)
    groups = use.params.get("groups") if use.op.type in CONVOLUTIONS else None
    count = int(groups.reshape(-1)[0]) if groups is not None and groups.size else 1
    return Consumer(
        use.op.type,
        op_name(use.op),
        use.input_name,
        axis,
        groups=max(1, count),
        outputs=other_names(use.op),
        rotary=is_rotary(node, use),
    )


def _axis_back(use: Use, axis: int | None, node: Node, following: Node) -> int | None:
    if use.op.type == "while_loop":
        return axis
    if node.shape is None or following.shape is None:
        return None
    return axis_before(use.op.type, axis, use.params, node.shape, following.shape)
