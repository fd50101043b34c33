"""An op with blocks (a loop) that reads a weight in them: what it gives with another array in the weight's place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from mil_palettize.torch.calibration.behind import SATURATING
from mil_palettize.torch.calibration.readers import RECURRENT
from mil_palettize.torch.calibration.streams import Stream
from mil_palettize.torch.evaluator.execution import Execution
from mil_palettize.torch.evaluator.ops.lists import TensorList
from mil_palettize.torch.evaluator.program import Function, Step


class Nested:
    """As :class:`Behind` for an op that multiplies with the weight itself. ``slot``: of the weight."""

    def __init__(self, function: Function, step: Step, slot: str) -> None:
        self.step, self._function, self._slot = step, function, slot

    @classmethod
    def of(cls, function: Function, number: int, slot: str, derived: Iterable[Step]) -> Nested | None:
        """Of op ``number``; None where it changes states, or what it reads is made of the weight by ``derived``."""
        if function.states or any(slot in step.slots_read() for step in derived):
            return None
        return cls(function, function.block.steps[number], slot)

    @property
    def saturates(self) -> bool:
        """Whether there may be inputs for which the output hardly depends on the weight."""
        kinds = {step.info.type for block in self.step.blocks for step in block.all_steps()}
        return bool(kinds & SATURATING or kinds & set(RECURRENT))

    def given(self, stream: Stream, sample: int) -> dict[str, Any]:
        """What is known before the op runs."""
        return stream.values(sample)

    def with_weight(self, values: Mapping[str, Any], flat: torch.Tensor) -> dict[str, Any]:
        return {**values, self._slot: flat.reshape(values[self._slot].shape)}

    def results(self, stream: Stream, values: Mapping[str, Any]) -> list[torch.Tensor]:
        """Floats that come out."""
        run = Execution(self._function, dict(values), stream.half, [])
        return list(_floats(run.results(self.step, run.arguments(self.step))))


def _floats(results: Iterable[Any]) -> Iterator[torch.Tensor]:
    for result in results:
        if isinstance(result, TensorList):
            yield from _floats(result.elements)
        elif isinstance(result, torch.Tensor) and result.is_floating_point():
            yield result
