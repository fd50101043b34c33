"""An op that reads a weight, and the ops that follow it, as far as they compute with what it gives, place by place."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from mil_palettize.torch.calibration.readers import RECURRENT, Operand
from mil_palettize.torch.calibration.streams import Stream
from mil_palettize.torch.evaluator.program import Step

# Ops of one tensor that act on each element alone.
_ELEMENTWISE = frozenset({
    "relu", "relu6", "leaky_relu", "prelu", "elu", "gelu", "silu", "sigmoid", "sigmoid_hard", "softplus", "softsign",
    "tanh", "scaled_tanh", "thresholded_relu", "clip", "clamped_relu", "linear_activation", "batch_norm", "add", "mul",
    "sub",
})  # fmt: skip
# A few channels may be far larger than all others: what their errors count shows behind it only.
_NORMALISING = frozenset({"layer_norm"})
# Where these saturate, errors before them do not matter, which moments of inputs cannot tell.
SATURATING = frozenset({"sigmoid", "sigmoid_hard", "softsign", "tanh", "scaled_tanh"})


@dataclass(frozen=True, eq=False)
class Tail:
    """``steps``: ops in order, each with the slot of what it gets of the one before; ``beside``: slots of what they
    read besides that is no constant, and known before the first op runs, as of a shortcut."""

    steps: tuple[tuple[Step, str], ...]
    beside: tuple[str, ...]

    @property
    def residual(self) -> str | None:
        """The slot of what is added to the first op's output at once."""
        if not self.steps or self.steps[0][0].info.type != "add":
            return None
        step, own = self.steps[0]
        return next((slot for slot in step.slots_read() if slot != own and slot in self.beside), None)


def tail_of(step: Step, following: Sequence[Step], constants: Collection[str], given: Collection[str]) -> Tail:
    """Of ``step``, as far as one op alone reads what there is, and the function does not give it. ``constants``: slots
    of these; ``given``: slots that the function gives."""
    found: list[tuple[Step, str]] = []
    beside: list[str] = []
    later = {slot for other in (step, *following) for slot in other.outputs}
    outputs = step.outputs
    while len(outputs) == 1 and outputs[0] not in given:
        slot = outputs[0]
        reading = [other for other in following if slot in set(other.slots_read())]
        if len(reading) != 1 or reading[0].info.type not in _ELEMENTWISE | _NORMALISING:
            break
        rest = [s for r in reading[0].readings for s in r.slots if s != slot]
        plain = all(not r.many and r.convert is None for r in reading[0].readings)
        if not plain or any(s not in constants and s in later for s in rest):
            break
        if sum(slot in r.slots for r in reading[0].readings) != 1:
            break
        found.append((reading[0], slot))
        beside += [s for s in rest if s not in constants]
        outputs = reading[0].outputs
    return Tail(tuple(found), tuple(beside))


@dataclass(frozen=True, eq=False)
class GivenOp:
    """``arguments``: of the op; ``beside``: by slot, what ops of its tail read besides."""

    arguments: dict[str, Any]
    beside: Mapping[str, Any]


class Behind:
    """An op that reads a weight once, and its ``tail``. ``index``: as in :class:`Reader`; ``read``: slots that ops
    after it read, or the function gives."""

    def __init__(
        self, stream: Stream, step: Step, operand: Operand, index: np.ndarray, tail: Tail, read: Collection[str]
    ) -> None:
        self.step, self._operand, self._index = step, operand, torch.from_numpy(index).to(stream.device)
        self._tail, self._counted = tail, [slot in read for slot in step.outputs]

    @property
    def saturates(self) -> bool:
        """Whether there are inputs for which the output hardly depends on the weight."""
        return self.step.info.type in RECURRENT or any(s.info.type in SATURATING for s, _ in self._tail.steps)

    def given(self, stream: Stream, sample: int) -> GivenOp:
        """What the ops get in this sample."""
        values = stream.values(sample) if self._tail.beside else {}
        return GivenOp(stream.arguments(sample, self.step), {slot: values[slot] for slot in self._tail.beside})

    def with_weight(self, given: GivenOp, flat: torch.Tensor) -> GivenOp:
        """``given`` with the elements of ``flat`` (of the weight, C order) in their places."""
        arguments = given.arguments
        old = self._operand.of(arguments)
        new = torch.where(self._index >= 0, flat[self._index.clamp(min=0)], old.float())
        changed: Any = new
        if isinstance(arguments[self._operand.parameter], list):
            changed = list(arguments[self._operand.parameter])
            changed[self._operand.position] = new
        return replace(given, arguments={**arguments, self._operand.parameter: changed})

    def results(self, stream: Stream, given: GivenOp) -> list[torch.Tensor]:
        """What comes out at the end and is read by anything, as far as it is floats."""
        found = stream.results(self.step, given.arguments)
        if any(self._counted):  # of recurrent layers there are outputs that nobody reads
            found = tuple(result for result, counted in zip(found, self._counted, strict=True) if counted)
        for step, slot in self._tail.steps:
            reading = next(r for r in step.readings if slot in r.slots)
            others = {r.name: r.slots[0] for r in step.readings if slot not in r.slots}
            known = {n: given.beside[s] if s in given.beside else stream.constants[s] for n, s in others.items()}
            found = stream.results(step, {**step.fixed, **known, reading.name: found[0]})
        return [result for result in found if isinstance(result, torch.Tensor) and result.is_floating_point()]
