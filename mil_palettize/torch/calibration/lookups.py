"""Tables that ops look up: what the rest of the function makes of errors in their rows.

A row is not multiplied with anything, so its op's output tells nothing of which errors matter. What does is how much
the function's outputs change with each row that was read: the second moments of their gradients are to a row what those
of inputs are to a row of a matrix, and errors of one element can be made good in others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mil_palettize.torch.calibration.masks import counted
from mil_palettize.torch.calibration.sources import Reader
from mil_palettize.torch.calibration.streams import Stream
from mil_palettize.torch.calibration.sums import ReadMoments
from mil_palettize.torch.evaluator.execution import Execution
from mil_palettize.torch.evaluator.program import Function

_MOST_ELEMENTS, _MOST_COLUMNS = 1 << 25, 4096  # of a table whose rows are made good as a whole
_SAMPLES = 64  # that are differentiated
_DRAWS = 2  # of signs for each of them
_JUDGED = 16


class Later:
    """What follows a look-up of whole rows, up to the function's outputs. ``derived``: ops, by number, that compute
    with constants only and have been run."""

    def __init__(self, stream: Stream, function: Function, reader: Reader, derived: Mapping[int, Any]) -> None:
        self._stream, self._function, self._reader = stream, function, reader
        steps = enumerate(function.block.steps)
        self._rest = [step for number, step in steps if number > reader.number and number not in derived]

    @classmethod
    def of(cls, stream: Stream, function: Function, reader: Reader, derived: Mapping[int, Any]) -> Later | None:
        """None for look-ups of other things than rows, and where running on changes what is kept (states)."""
        step, shape = reader.step, reader.index.shape
        whole = len(shape) == 2 and bool((reader.index >= 0).all())
        small = reader.index.size <= _MOST_ELEMENTS and whole and shape[1] <= _MOST_COLUMNS
        rows = step.info.type == "gather" and not step.fixed.get("axis", 0) and not step.fixed.get("batch_dims", 0)
        if not (small and rows) or reader.nested or function.states:
            return None
        return cls(stream, function, reader, derived)

    def outputs(self, sample: int, found: torch.Tensor) -> list[torch.Tensor]:
        """The function's outputs of floats, where the look-up gives ``found``."""
        run = Execution(self._function, self._stream.values(sample), self._stream.half, [])
        for slot in self._reader.step.unneeded:
            run.values.pop(slot, None)
        run.values[self._reader.step.outputs[0]] = found
        for step in self._rest:
            run.advance(step)
        given = (run.values[slot] for slot in self._function.block.outputs)
        return [value for value in given if isinstance(value, torch.Tensor) and value.is_floating_point()]

    def looked_up(self, sample: int, table: torch.Tensor | None = None) -> torch.Tensor:
        """What the op gives, with another ``table`` in the place of its own."""
        arguments = self._stream.arguments(sample, self._reader.step)
        if table is not None:
            arguments = {**arguments, "x": table}
        (found,) = self._stream.results(self._reader.step, arguments)
        assert isinstance(found, torch.Tensor)
        return found

    def moments(self, fit: Sequence[int], kept: Sequence[torch.Tensor | None], seed: int) -> ReadMoments:
        """Of the gradients of the outputs' products with random signs, one matrix of all rows."""
        size = self._reader.index.shape[1]
        random = torch.Generator().manual_seed(seed)
        total, count = torch.zeros(size, size, dtype=torch.float64), 0
        for sample in fit[:: max(1, -(-len(fit) // _SAMPLES))]:
            for gradient in self._gradients(sample, random):
                own = counted(gradient, kept[sample]).reshape(-1, size).double()
                total += own.T @ own
                count += len(own)
        square = (total + total.T).numpy() / 2.0
        return ReadMoments(self._reader.index[None], square[None], None, count)

    def _gradients(self, sample: int, random: torch.Generator) -> Iterator[torch.Tensor]:
        with torch.enable_grad():
            found = self.looked_up(sample).detach().requires_grad_()
            outputs = [out for out in self.outputs(sample, found) if out.requires_grad]
            for draw in range(_DRAWS if outputs else 0):
                signs = [torch.randint(0, 2, out.shape, generator=random) * 2.0 - 1.0 for out in outputs]
                value = torch.stack([(out * sign).sum() for out, sign in zip(outputs, signs, strict=True)]).sum()
                yield torch.autograd.grad(value, [found], retain_graph=draw + 1 < _DRAWS)[0]


class OutputTrial:
    """Calling it with an array in the table's place gives the squared error of the function's outputs, each relative to
    its own square, summed over the held out samples, with the float network's other weights."""

    def __init__(self, later: Later, held: Sequence[int]) -> None:
        self._later = later
        self._samples = held[:: max(1, -(-len(held) // _JUDGED))]
        with torch.no_grad():
            self._wanted = [later.outputs(sample, later.looked_up(sample)) for sample in self._samples]

    def __call__(self, table: np.ndarray) -> float:
        tensor = torch.from_numpy(np.array(table, np.float32))
        errors = np.zeros((2, len(self._wanted[0])))
        for sample, wanted in zip(self._samples, self._wanted, strict=True):
            found = self._later.outputs(sample, self._later.looked_up(sample, tensor))
            for number, (one, two) in enumerate(zip(found, wanted, strict=True)):
                errors[0, number] += float((one.double() - two.double()).square().sum())
                errors[1, number] += float(two.double().square().sum())
        return float(np.sum(errors[0] / np.where(errors[1] > 0.0, errors[1], 1.0)))
