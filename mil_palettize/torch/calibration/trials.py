"""What comes out behind an op with another array in a weight's place: its error on samples held out of the fit, and how
much it depends on each element."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from mil_palettize.torch.calibration.masks import counted
from mil_palettize.torch.calibration.streams import Stream, wide

_MOST = 16  # samples that are looked at


class Tried(Protocol):
    """An op that reads a weight, with what follows it. What it is ``given`` is its own affair."""

    @property
    def saturates(self) -> bool: ...

    def given(self, stream: Stream, sample: int) -> Any: ...

    def with_weight(self, given: Any, flat: torch.Tensor) -> Any: ...

    def results(self, stream: Stream, given: Any) -> list[torch.Tensor]: ...


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
        self._given = [behind.given(other, sample) for sample in chosen]
        floats = (behind.given(float_stream, sample) for sample in chosen)
        self._wanted = [
            [counted(out, own) for out in behind.results(float_stream, given)]
            for given, own in zip(floats, self._kept, strict=True)
        ]
        self._power = sum(_squares(wide(out), wide(out)) for outs in self._wanted for out in outs)

    def __call__(self, weight: np.ndarray) -> float:
        flat = torch.from_numpy(np.array(weight, np.float32).reshape(-1)).to(self._stream.device)
        error = 0.0
        for given, wanted, kept in zip(self._given, self._wanted, self._kept, strict=True):
            tried = self._behind.with_weight(given, flat)
            for one, two in zip(self._behind.results(self._stream, tried), wanted, strict=True):
                error += _squares(wide(counted(one, kept)) - wide(two), wide(two))
        return error / self._power if self._power else error


def _squares(tensor: torch.Tensor, wanted: torch.Tensor) -> float:
    """Their sum, but where ``wanted`` is infinite, as masks make it."""
    return float(tensor.detach().where(wanted.isfinite(), 0.0).square().sum())


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
        given = behind.given(stream, place)
        with torch.enable_grad():
            flat = weight.detach().float().reshape(-1).requires_grad_()
            found = behind.results(stream, behind.with_weight(given, flat))
            outputs = [counted(out, kept[place]) for out in found]
            signs = [(torch.randint(0, 2, o.shape, generator=random) * 2.0 - 1.0).to(o.device) for o in outputs]
            value = torch.stack([(out * sign).sum() for out, sign in zip(outputs, signs, strict=True)]).sum()
            (gradient,) = torch.autograd.grad(value, [flat])
        total += wide(gradient).square().cpu()
    return total.numpy().reshape(tuple(weight.shape))
