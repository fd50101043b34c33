"""The error of an op's output, behind its non-linearity, on samples held out of the fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mil_palettize.torch.calibration.readers import Operand
from mil_palettize.torch.calibration.streams import Stream
from mil_palettize.torch.evaluator.program import Step

_MOST = 16  # samples that are looked at
# Ops of one tensor that act on each element alone.
_ELEMENTWISE = frozenset({
    "relu", "relu6", "leaky_relu", "prelu", "elu", "gelu", "silu", "sigmoid", "sigmoid_hard", "softplus", "softsign",
    "tanh", "scaled_tanh", "thresholded_relu", "clip", "clamped_relu", "linear_activation", "batch_norm", "add", "mul",
    "sub",
})  # fmt: skip


class Trial:
    """Calling it with an array in the weight's place gives the squared error of the output relative to the output's
    square, both summed over the held out samples, with the inputs of the palettized network on one side and those of
    the float network, and its weight, on the other."""

    def __init__(
        self,
        float_stream: Stream,
        other: Stream,
        step: Step,
        operand: Operand,
        index: np.ndarray,
        held: Sequence[int],
        following: Sequence[Step],
    ) -> None:
        self._stream, self._step, self._operand, self._index = other, step, operand, index
        self._tail = _tail(step, following, float_stream.constants)
        chosen = held[:: max(1, -(-len(held) // _MOST))]
        self._arguments = [other.arguments(sample, step) for sample in chosen]
        floats = (float_stream.arguments(sample, step) for sample in chosen)
        self._wanted = [self._results(float_stream, arguments) for arguments in floats]
        self._power = sum(float(out.double().square().sum()) for outs in self._wanted for out in outs)

    def __call__(self, weight: np.ndarray) -> float:
        flat = torch.from_numpy(np.array(weight, np.float32).reshape(-1))
        error = 0.0
        for arguments, wanted in zip(self._arguments, self._wanted, strict=True):
            given = self._with(arguments, flat)
            for one, two in zip(self._results(self._stream, given), wanted, strict=True):
                error += float((one.double() - two.double()).square().sum())
        return error / self._power if self._power else error

    def _with(self, arguments: Mapping[str, Any], flat: torch.Tensor) -> dict[str, Any]:
        old = self._operand.of(arguments)
        index = torch.from_numpy(self._index)
        new = torch.where(index >= 0, flat[index.clamp(min=0)], old.float())
        if not isinstance(arguments[self._operand.parameter], list):
            return {**arguments, self._operand.parameter: new}
        several = list(arguments[self._operand.parameter])
        several[self._operand.position] = new
        return {**arguments, self._operand.parameter: several}

    def _results(self, stream: Stream, arguments: dict[str, Any]) -> list[torch.Tensor]:
        results = stream.results(self._step, arguments)
        for step, slot in self._tail:
            reading = next(r for r in step.readings if slot in r.slots)
            constants = {r.name: stream.constants[r.slots[0]] for r in step.readings if slot not in r.slots}
            results = stream.results(step, {**step.fixed, **constants, reading.name: results[0]})
        return [result for result in results if isinstance(result, torch.Tensor) and result.is_floating_point()]


def _tail(step: Step, following: Sequence[Step], constants: Mapping[str, Any]) -> list[tuple[Step, str]]:
    """Ops that act on each element of the output alone, as long as nothing else reads it, and what they read."""
    found: list[tuple[Step, str]] = []
    outputs = step.outputs
    while len(outputs) == 1:
        slot = outputs[0]
        reading = [other for other in following if slot in set(other.slots_read())]
        if len(reading) != 1 or reading[0].info.type not in _ELEMENTWISE:
            break
        rest = [s for r in reading[0].readings for s in r.slots if s != slot]
        plain = all(not r.many and r.convert is None for r in reading[0].readings)
        if not plain or any(s not in constants for s in rest):
            break
        if sum(slot in r.slots for r in reading[0].readings) != 1:
            break
        found.append((reading[0], slot))
        outputs = reading[0].outputs
    return found
