"""What an op gives with another array in a weight's place, behind its non-linearity: its error on samples held out of
the fit, and how much it depends on each element."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from mil_palettize.torch.calibration.masks import counted
from mil_palettize.torch.calibration.readers import RECURRENT, Operand
from mil_palettize.torch.calibration.streams import Stream, wide
from mil_palettize.torch.evaluator.program import Step

_MOST = 16  # samples that are looked at
# Ops of one tensor that act on each element alone.
_ELEMENTWISE = frozenset({
    "relu", "relu6", "leaky_relu", "prelu", "elu", "gelu", "silu", "sigmoid", "sigmoid_hard", "softplus", "softsign",
    "tanh", "scaled_tanh", "thresholded_relu", "clip", "clamped_relu", "linear_activation", "batch_norm", "add", "mul",
    "sub",
})  # fmt: skip
# Where these saturate, errors before them do not matter, which moments of inputs cannot tell.
SATURATING = frozenset({"sigmoid", "sigmoid_hard", "softsign", "tanh", "scaled_tanh"})


class Behind:
    """An op that reads a weight once, and the ops that follow and act on each element of its output alone.
    ``index``: as in :class:`Reader`; ``following``: the ops after it; ``outputs``: slots that the function gives."""

    def __init__(
        self, stream: Stream, step: Step, operand: Operand, index: np.ndarray,
        following: Sequence[Step], outputs: Collection[str],
    ) -> None:  # fmt: skip
        self.step, self._operand, self._index = step, operand, torch.from_numpy(index).to(stream.device)
        self._tail = _tail(step, following, stream.constants, outputs)
        read = {slot for other in following for slot in other.slots_read()} | set(outputs)
        self._counted = [slot in read for slot in step.outputs]

    @property
    def saturates(self) -> bool:
        """Whether there are inputs for which the output hardly depends on the weight."""
        return self.step.info.type in RECURRENT or any(s.info.type in SATURATING for s, _ in self._tail)

    def given(self, stream: Stream, sample: int) -> dict[str, Any]:
        """What the op gets in this sample."""
        return stream.arguments(sample, self.step)

    def with_weight(self, arguments: Mapping[str, Any], flat: torch.Tensor) -> dict[str, Any]:
        """``arguments`` with the elements of ``flat`` (of the weight, C order) in their places."""
        old = self._operand.of(arguments)
        new = torch.where(self._index >= 0, flat[self._index.clamp(min=0)], old.float())
        if not isinstance(arguments[self._operand.parameter], list):
            return {**arguments, self._operand.parameter: new}
        several = list(arguments[self._operand.parameter])
        several[self._operand.position] = new
        return {**arguments, self._operand.parameter: several}

    def results(self, stream: Stream, arguments: dict[str, Any]) -> list[torch.Tensor]:
        """What comes out at the end and is read by anything, as far as it is floats."""
        found = stream.results(self.step, arguments)
        if any(self._counted):  # of recurrent layers there are outputs that nobody reads
            found = tuple(result for result, counted in zip(found, self._counted, strict=True) if counted)
        for step, slot in self._tail:
            reading = next(r for r in step.readings if slot in r.slots)
            constants = {r.name: stream.constants[r.slots[0]] for r in step.readings if slot not in r.slots}
            found = stream.results(step, {**step.fixed, **constants, reading.name: found[0]})
        return [result for result in found if isinstance(result, torch.Tensor) and result.is_floating_point()]


class Tried(Protocol):
    """An op that reads a weight, with what follows it."""

    @property
    def saturates(self) -> bool: ...

    def given(self, stream: Stream, sample: int) -> dict[str, Any]: ...

    def with_weight(self, arguments: Mapping[str, Any], flat: torch.Tensor) -> dict[str, Any]: ...

    def results(self, stream: Stream, arguments: dict[str, Any]) -> list[torch.Tensor]: ...


class Trial:
    """Calling it with an array in the weight's place gives the squared error of the output relative to the output's
    square, both summed over the held out samples, with the inputs of the palettized network on one side and those of
    the float network, and its weight, on the other. ``kept``: of each sample, the positions that count, None for
    all."""

    def __init__(
        self, float_stream: Stream, other: Stream, behind: Tried, held: Sequence[int],
        kept: Sequence[torch.Tensor | None],
    ) -> None:  # fmt: skip
        self._stream, self._behind = other, behind
        chosen = held[:: max(1, -(-len(held) // _MOST))]
        self._kept = [kept[sample] for sample in chosen]
        self._arguments = [behind.given(other, sample) for sample in chosen]
        floats = (behind.given(float_stream, sample) for sample in chosen)
        self._wanted = [
            [counted(out, own) for out in behind.results(float_stream, arguments)]
            for arguments, own in zip(floats, self._kept, strict=True)
        ]
        self._power = sum(float(wide(out).square().sum()) for outs in self._wanted for out in outs)

    def __call__(self, weight: np.ndarray) -> float:
        flat = torch.from_numpy(np.array(weight, np.float32).reshape(-1)).to(self._stream.device)
        error = 0.0
        for arguments, wanted, kept in zip(self._arguments, self._wanted, self._kept, strict=True):
            given = self._behind.with_weight(arguments, flat)
            for one, two in zip(self._behind.results(self._stream, given), wanted, strict=True):
                error += float((wide(counted(one, kept)) - wide(two)).square().sum())
        return error / self._power if self._power else error


class Trials:
    """Of a weight that several ops read: the mean of what trials of each of them give."""

    def __init__(self, trials: Sequence[Callable[[np.ndarray], float]]) -> None:
        self._trials = trials

    def __call__(self, weight: np.ndarray) -> float:
        return sum(trial(weight) for trial in self._trials) / len(self._trials)


def sensitivity(
    stream: Stream, behind: Tried, weight: torch.Tensor, samples: Mapping[int, int], seed: int,
    kept: Sequence[torch.Tensor | None],
) -> np.ndarray:  # fmt: skip
    """How much the output's squared error grows with that of each element of ``weight``: the sum over ``samples``
    (number -> place in ``stream``) of the squared gradient of the output's product with random signs, whose mean over
    all signs is the sum of squares of the output's own gradients. ``kept``: as in :class:`Trial`. float64 of the
    weight's shape."""
    total = torch.zeros(weight.numel(), dtype=torch.float64)
    for number, place in samples.items():
        random = torch.Generator().manual_seed(int(np.random.default_rng([seed, number]).integers(1 << 62)))
        arguments = behind.given(stream, place)
        with torch.enable_grad():
            flat = weight.detach().float().reshape(-1).requires_grad_()
            found = behind.results(stream, behind.with_weight(arguments, flat))
            outputs = [counted(out, kept[place]) for out in found]
            signs = [(torch.randint(0, 2, o.shape, generator=random) * 2.0 - 1.0).to(o.device) for o in outputs]
            value = torch.stack([(out * sign).sum() for out, sign in zip(outputs, signs, strict=True)]).sum()
            (gradient,) = torch.autograd.grad(value, [flat])
        total += wide(gradient).square().cpu()
    return total.numpy().reshape(tuple(weight.shape))


def _tail(
    step: Step, following: Sequence[Step], constants: Mapping[str, Any], given: Collection[str]
) -> list[tuple[Step, str]]:
    """Ops that act on each element of the output alone, as long as nothing else reads it and the function does not give
    it, and what they read."""
    found: list[tuple[Step, str]] = []
    outputs = step.outputs
    while len(outputs) == 1 and outputs[0] not in given:
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
