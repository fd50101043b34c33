"""The blocks of a program: stretches between places where all that palettes have touched is a single value.

A residual block is one, since the value that is added crosses all its ops; a plain chain is a block for each weight.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mil_palettize.torch.evaluator.program import Function, Step


@dataclass(frozen=True, eq=False)
class Block:
    """``steps``: in order; ``weights``: slots of those wanted that they read; ``gives``: slots of what they make of it,
    for steps after them or for the function itself."""

    steps: tuple[Step, ...]
    weights: tuple[str, ...]
    gives: tuple[str, ...]


def blocks_of(function: Function, weights: Collection[str]) -> list[Block]:
    """All steps of the function's own block, in blocks that each read some of ``weights`` (slots)."""
    steps = function.block.steps
    last = {slot: number for number, step in enumerate(steps) for slot in step.slots_read()}
    touched = set(weights)
    live: list[tuple[str, ...]] = []  # after each step
    for number, step in enumerate(steps):
        if not touched.isdisjoint(step.slots_read()):
            touched.update(step.outputs)
        before = (*live[-1], *step.outputs) if live else step.outputs
        live.append(tuple(slot for slot in before if slot in touched and last.get(slot, -1) > number))
    starts = _starts(steps, weights, live)
    ends = [*starts[1:], len(steps)]
    outputs = touched.intersection(function.block.outputs)
    return [_block(steps[start:end], weights, live[end - 1], outputs) for start, end in zip(starts, ends, strict=True)]


def _starts(steps: Sequence[Step], weights: Collection[str], live: Sequence[tuple[str, ...]]) -> list[int]:
    """Where blocks begin: 0, and each place that one value at most crosses, where weights are read before and after it
    and before the next such place."""
    places = [0, *(number + 1 for number, slots in enumerate(live[:-1]) if len(slots) <= 1)]
    ends = [*places[1:], len(steps)]
    reading = [
        place
        for place, end in zip(places, ends, strict=True)
        if any(slot in weights for step in steps[place:end] for slot in step.slots_read())
    ]
    return [0, *reading[1:]]


def _block(steps: Sequence[Step], weights: Collection[str], live: Sequence[str], outputs: Collection[str]) -> Block:
    read = dict.fromkeys(slot for step in steps for slot in step.slots_read() if slot in weights)
    made = [slot for step in steps for slot in step.outputs if slot in outputs]
    return Block(tuple(steps), tuple(read), tuple(dict.fromkeys((*live, *made))))
