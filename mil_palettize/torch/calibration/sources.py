"""Which ops read which weight, also through ops that only rearrange constants."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mil_palettize.program.channel_axes import TRANSPARENT
from mil_palettize.program.roles import is_weight_input
from mil_palettize.torch.calibration.readers import Operand
from mil_palettize.torch.evaluator.program import Function, Reading, Step


@dataclass(frozen=True, eq=False)
class Reader:
    """An op that reads a weight. ``number``: of the op in the outermost block that it is, or is in; ``index``: int64 of
    the shape of the operand, the place in the weight of each element, -1 for what is not the weight's."""

    step: Step
    operand: Operand
    number: int
    nested: bool
    index: np.ndarray


@dataclass(frozen=True, eq=False)
class Sources:
    """``readers``: by the slot of the weight; ``derived``: ops of the outermost block that compute with constants
    only, by number."""

    readers: dict[str, list[Reader]]
    derived: dict[int, Step]


def sources_of(function: Function, weights: Collection[str]) -> Sources:
    """Of the weights in these slots. A weight that another op than those computes with has no readers."""
    constant = set(function.constants)
    derived: dict[int, Step] = {}
    for number, step in enumerate(function.block.steps):
        if not step.blocks and step.readings and set(step.slots_read()) <= constant and step.info.type in TRANSPARENT:
            derived[number] = step
            constant |= set(step.outputs)
    readers = {slot: list(_readers(function, slot)) for slot in weights}
    return Sources(readers, derived)


def _readers(function: Function, weight: str) -> Iterator[Reader]:
    shape = function.constants[weight].shape
    places = {weight: np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)}
    for number, outer in enumerate(function.block.steps):
        for step in _with_inner(outer):
            for reading in step.readings:
                for position, slot in enumerate(reading.slots):
                    if slot in places and is_weight_input(step.info.type, reading.name):
                        operand = Operand(reading.name, position)
                        yield Reader(step, operand, number, step is not outer, places[slot])
            places.update(_handed_on(step, places, function))
            if step.info.type == "while_loop":
                places.update(_into_loop(step, places))


def _with_inner(step: Step) -> Iterator[Step]:
    yield step
    for block in step.blocks:
        yield from block.all_steps()


def _into_loop(step: Step, places: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Places in variables that the body of a loop hands on as they are."""
    variables = next((reading.slots for reading in step.readings if reading.name == "loop_vars"), ())
    condition, body = step.blocks
    found = {}
    for i, slot in enumerate(variables):
        if slot in places and body.outputs[i] == body.inputs[i]:
            for inner in (condition.inputs[i], body.inputs[i], step.outputs[i]):
                found[inner] = places[slot]
    return found


def _handed_on(step: Step, places: Mapping[str, np.ndarray], function: Function) -> dict[str, np.ndarray]:
    """Places in what an op makes of a weight that it rearranges."""
    if step.info.type not in TRANSPARENT or step.blocks:
        return {}
    data = TRANSPARENT[step.info.type][0]
    read = {reading.name: reading for reading in step.readings}
    if data not in read or set(read) != {data} or not any(slot in places for slot in read[data].slots):
        return {}
    if not all(slot in places or slot in function.constants for slot in read[data].slots):
        return {}
    if step.info.type == "cast":
        return {step.outputs[0]: places[read[data].slots[0]]}
    result = step.call(**step.fixed, **{data: _indices(read[data], places, function)})
    found = result if isinstance(result, (tuple, list)) else (result,)
    return {slot: value.numpy() for slot, value in zip(step.outputs, found, strict=True)}


def _indices(reading: Reading, places: Mapping[str, np.ndarray], function: Function) -> Any:
    found = [
        torch.from_numpy(places[slot]) if slot in places else torch.full(function.constants[slot].shape, -1)
        for slot in reading.slots
    ]
    return found if reading.many else found[0]
