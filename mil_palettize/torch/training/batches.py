"""Programs of one sample run on many at once, also where they are fixed to a batch of 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from mil_palettize.torch.evaluator.execution import Execution
from mil_palettize.torch.evaluator.mapping import Tensors, are_alike, mapped
from mil_palettize.torch.evaluator.module import MILModule
from mil_palettize.torch.evaluator.program import Function, Step


class Batched:
    """``run`` takes and gives tensors by name, of one sample. It is mapped over samples (``torch.vmap``) as long as its
    ops allow that; where one does not, as those that look at values do, samples are run one after another."""

    def __init__(self, run: Callable[[Tensors], Tensors]) -> None:
        self._run = run
        self._maps = True

    def __call__(self, samples: Sequence[Tensors]) -> list[Tensors]:
        """What each sample gives. Raises what ``run`` does."""
        if self._maps and len(samples) > 1 and are_alike(samples):
            try:
                return mapped(self._run, samples)
            except Exception:  # of an op that cannot be mapped; what is wrong with a sample is seen again below
                self._maps = False
        return [self._run(sample) for sample in samples]


def runner(
    function: Function, steps: Sequence[Step], constants: Mapping[str, Any], gives: Sequence[str]
) -> Callable[[Tensors], Tensors]:
    """Of the values that are known before ``steps``, those in the slots ``gives`` behind them."""

    def run(values: Tensors) -> Tensors:
        execution = Execution(function, {**constants, **values}, False, ())
        for step in steps:
            made = execution.results(step, execution.arguments(step))
            execution.values.update(zip(step.outputs, made, strict=True))
        return {slot: execution.values[slot] for slot in gives}

    return run


def inputs_of(module: MILModule, samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What is known of each sample before the first step, apart from constants. Raises EvaluationError."""
    known = module.constants().keys()
    return [{s: v for s, v in module.values_of(sample).items() if s not in known} for sample in samples]


def floats_of(module: MILModule) -> dict[str, Any]:
    """The module's constants by slot, without gradients."""
    return {s: v.detach() if isinstance(v, torch.Tensor) else v for s, v in module.constants().items()}
