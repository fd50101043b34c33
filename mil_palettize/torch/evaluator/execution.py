"""A prepared function run: op by op, with listeners.

Everything is computed in float32. With ``half`` every result that is declared float16 is rounded to it, as the device
does, though sums inside an op are those of float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch

from mil_palettize.errors import EvaluationError, PalettizeError
from mil_palettize.text import format_count, shorten
from mil_palettize.torch.evaluator.constant_store import LazyValues
from mil_palettize.torch.evaluator.memory import one_line
from mil_palettize.torch.evaluator.program import Block, Function, OpInfo, Step

_FEW, _LONG = 20, 80  # elements and characters of a parameter that an error shows


class Listener(Protocol):
    """Told of every op. ``inputs``: by parameter, as the op's function gets them; ``outputs``: in order."""

    def will_run(self, op: OpInfo, inputs: Mapping[str, Any]) -> None: ...

    def did_run(self, op: OpInfo, outputs: Sequence[Any]) -> None: ...


class Execution:
    """``values``: by slot; filled with inputs, states and constants before :meth:`run`."""

    def __init__(self, function: Function, values: dict[str, Any], half: bool, listeners: Sequence[Listener]) -> None:
        self.function = function
        self.values = values
        self.half = half
        self.listeners = listeners
        self._of_listener: Exception | None = None  # which is the caller's own, and no failure of the op around it

    def run(self) -> dict[str, Any]:
        """The function's outputs by name. Raises EvaluationError naming the op that failed."""
        return dict(zip(self.function.output_names, self._block(self.function.block), strict=True))

    def _block(self, block: Block, *arguments: Any) -> list[Any]:
        if len(arguments) != len(block.inputs):
            raise ValueError(f"a block of it takes {len(block.inputs)} values and gets {len(arguments)}")
        self.values.update(zip(block.inputs, arguments, strict=True))
        for step in block.steps:
            self.advance(step)
        return [self.values[slot] for slot in block.outputs]

    def advance(self, step: Step) -> None:
        """Run one op, and drop what nothing reads after it."""
        arguments = self.arguments(step)
        for listener in self.listeners:
            self._tell(listener.will_run, step.info, arguments)
        results = self.results(step, arguments)
        for listener in self.listeners:
            self._tell(listener.did_run, step.info, results)
        self.values.update(zip(step.outputs, results, strict=True))
        for slot in step.unneeded:
            del self.values[slot]

    def arguments(self, step: Step) -> dict[str, Any]:
        """What an op's function gets, by parameter."""
        values = self.values
        arguments = dict(step.fixed)
        for name, slots, many, convert, narrow in step.readings:
            if narrow and isinstance(values, LazyValues):
                arguments[name] = values.as_kept(slots[0])
                continue
            value = [values[slot] for slot in slots] if many else values[slots[0]]
            try:
                arguments[name] = value if convert is None else convert(value)
            except Exception as error:
                raise _failure(step.info, {name: value}, error) from error
        return arguments

    def _tell(self, listener: Callable[[OpInfo, Any], None], op: OpInfo, values: Any) -> None:
        try:
            listener(op, values)
        except Exception as error:
            self._of_listener = error
            raise

    def results(self, step: Step, arguments: dict[str, Any]) -> tuple[Any, ...]:
        """What an op gives for these arguments. Raises EvaluationError."""
        found = self._at_once(step, arguments)
        if found is not None:
            return found
        blocks = {"blocks": [partial(self._block, block) for block in step.blocks]} if step.blocks else {}
        try:
            result = step.call(**arguments, **blocks)
        except Exception as error:
            if isinstance(error, PalettizeError) or error is self._of_listener:  # of an op in a block, told already
                raise
            raise _failure(step.info, arguments, error) from error
        results = result if isinstance(result, tuple) else (result,)
        if len(results) != len(step.outputs):
            raise EvaluationError(
                f"op {step.info.name!r} ({step.info.type}) has {format_count(len(results), 'output')}, the program "
                f"declares {len(step.outputs)}; the package is damaged"
            )
        if self.half:
            results = tuple(_rounded(r) if half else r for r, half in zip(results, step.half, strict=True))
        return results

    def _at_once(self, step: Step, arguments: dict[str, Any]) -> tuple[Any, ...] | None:
        """By the op's shortcut, where nobody is to see, and nothing is rounded, what the ops in its blocks give."""
        if step.shortcut is None or self.half or self.listeners:
            return None
        return step.shortcut(self.values, arguments)


def _failure(op: OpInfo, arguments: Mapping[str, Any], error: Exception) -> EvaluationError:
    told = ", ".join(f"{name} {_told(value)}" for name, value in arguments.items())
    return EvaluationError(
        f"op {op.name!r} ({op.type}) cannot be run: {one_line(error)}; its inputs are {told or 'none'}"
    )


def _rounded(value: Any) -> Any:
    return value.half().float() if isinstance(value, torch.Tensor) else value


def _told(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, list) and value and isinstance(value[0], torch.Tensor):
        return f"[{', '.join(map(_told, value[:4]))}{', ...' if len(value) > 4 else ''}]"
    plain = isinstance(value, int | float | str | list | bool)
    return shorten(repr(value[:_FEW] if isinstance(value, list) else value), _LONG) if plain else type(value).__name__
