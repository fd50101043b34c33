"""Samples that follow each other, run together: what a model gives of each, several computed in one call."""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mil_palettize.errors import PalettizeError
from mil_palettize.torch.evaluator.execution import Execution
from mil_palettize.torch.evaluator.mapping import Tensors, are_alike, mapped
from mil_palettize.torch.evaluator.model_pipeline import Evaluated
from mil_palettize.torch.evaluator.module import MILModule

_MOST = 16  # samples of a call
_ELEMENTS = 1 << 24  # of all their inputs, or outputs
_TELLS = "classify"  # the op whose results are no tensors; it and what follows is run sample by sample


class Ahead:
    """``module``'s results. Samples are run together where every op can be mapped over them: none is stateful, draws
    random numbers or looks at values, and shapes are the same; the others one by one."""

    def __init__(self, module: Evaluated) -> None:
        self._module = module
        self._program = _Program(module) if isinstance(module, MILModule) and _is_pure(module) else None
        self._kept: deque[tuple[Any, dict[str, Any]]] = deque()
        self.at_once = 1  # samples, until it is known how large they and outputs are

    def look(self, samples: Sequence[Any]) -> None:
        """Compute what :meth:`results` will be asked for next, in this order."""
        if self._program is None or len(samples) < 2 or not all(isinstance(sample, Mapping) for sample in samples):
            return
        try:
            given = self._program.checked(samples)
        except PalettizeError:  # which is told of the sample when its turn comes
            return
        if _elements(given[0]) * len(given) > _ELEMENTS or not are_alike(given):
            return
        try:
            found = self._program.results(given)
        except Exception:  # of an op that cannot be mapped, or is too large; what is wrong with one is seen in its turn
            self._program, self.at_once = None, 1
            return
        self._kept.extend(zip(samples, found, strict=True))

    def results(self, sample: Any, state: Any = None) -> dict[str, Any]:
        """As ``module.results``."""
        if self._kept and self._kept[0][0] is sample:
            return self._kept.popleft()[1]
        found = self._module.results(sample, state)
        if self._program is not None:
            self.at_once = max(1, min(_MOST, _ELEMENTS // max(1, _elements(found), _elements(sample))))
        return found


def in_turn(samples: Sequence[Any], models: Sequence[Ahead]) -> Iterator[Any]:
    """The samples one after another, for each of which all ``models`` are asked."""
    start = 0
    while start < len(samples):
        some = list(samples[start : start + min((model.at_once for model in models), default=1)])
        for model in models:
            model.look(some)
        yield from some
        start += len(some)


class _Program:
    def __init__(self, module: MILModule) -> None:
        self._module, block = module, module.function.block
        kinds = [step.info.type for step in block.steps]
        count = kinds.index(_TELLS) if _TELLS in kinds else len(kinds)
        self._mapped, self._single = block.steps[:count], block.steps[count:]
        known = {*module.function.types, *(slot for step in self._mapped for slot in step.outputs)}
        read = {*block.outputs, *(slot for step in self._single for slot in step.slots_read())}
        self._gives = sorted(known & read)

    def checked(self, samples: Sequence[Any]) -> list[dict[str, Any]]:
        """Their tensors, by input. Raises EvaluationError."""
        return [self._module.checked(self._module.features.tensors(sample)) for sample in samples]

    def results(self, samples: Sequence[Tensors]) -> list[dict[str, Any]]:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that an op is mapped one sample after another
            made = mapped(self._run, samples)
            return [self._outputs({**one, **two}) for one, two in zip(samples, made, strict=True)]

    def _run(self, values: Tensors) -> Tensors:
        run = self._execution(values)
        for step in self._mapped:
            run.advance(step)
        return {slot: run.values[slot] for slot in self._gives}

    def _outputs(self, values: Mapping[str, Any]) -> dict[str, Any]:
        run, function = self._execution(values), self._module.function
        for step in self._single:
            run.advance(step)
        outputs = zip(function.output_names, function.block.outputs, strict=True)
        return {name: run.values[slot] for name, slot in outputs}

    def _execution(self, values: Mapping[str, Any]) -> Execution:
        return Execution(self._module.function, self._module.with_constants(values), self._module.half, ())


def _is_pure(module: MILModule) -> bool:
    return not module.function.states and not module.draws_random_numbers


def _elements(values: Mapping[str, Any]) -> int:
    return sum(math.prod(x.shape) for x in values.values() if isinstance(x, torch.Tensor | np.ndarray))
