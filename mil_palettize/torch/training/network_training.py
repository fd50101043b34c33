"""The state of a fine tuning: palettes and biases on their way, and one step of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mil_palettize.errors import EvaluationError
from mil_palettize.expressions.weight_expr import WeightExpr
from mil_palettize.torch.training.augmentation import augmented
from mil_palettize.torch.training.batches import Batched, Tensors, floats_of, inputs_of, runner
from mil_palettize.torch.training.free_parts import FreeParts, State
from mil_palettize.torch.training.losses import Distance
from mil_palettize.torch.training.relative_adam import finite
from mil_palettize.torch.training.task import TrainingTask


class NetworkTraining:
    """``steps``: of all epochs of ``task``."""

    def __init__(self, task: TrainingTask, steps: int) -> None:
        module, schedule = task.module, task.schedule
        self._function, self._schedule = module.function, schedule
        self._float = floats_of(module)
        self._fixed = {slot: torch.from_numpy(np.array(array, np.float32)) for slot, array in task.fixed.items()}
        self._samples = inputs_of(module, task.samples)
        self._dtypes = {slot: dtype for slot, (_, dtype) in task.palettes.items()}
        palettes = {slot: palette for slot, (palette, _) in task.palettes.items()}
        self._free = FreeParts(palettes, {slot: self._float[slot] for slot in task.biases}, fixed=False)
        self._teacher = Batched(self._runner({}))
        # Samples that are changed in each step have to give what the float program gives for the changed ones.
        numbers = sorted(schedule.held) if schedule.augment and schedule.held else range(len(self._samples))
        self._wanted = dict(zip(numbers, self._given([self._samples[n] for n in numbers]), strict=True))
        self._distance = Distance.of(list(self._wanted.values()), schedule.temperature)
        self.optimizer = self._free.optimizer(schedule.learning_rate, steps)
        self._student = Batched(lambda sample: self._runner(self._seen)(sample))
        self._seen: dict[str, torch.Tensor] = {}  # what palettes and biases are in this step

    def step(self, numbers: Sequence[int], random: np.random.Generator) -> float:
        """Samples of these numbers; ``random``: what they are changed by. The mean loss before it.
        Raises EvaluationError for one that is no number, or that no gradient comes of."""
        samples: Sequence[Tensors] = [self._samples[n] for n in numbers]
        if self._schedule.augment:
            samples = augmented(samples, self._schedule.augment, random)
            wanted = self._given(samples)
        else:
            wanted = [self._wanted[n] for n in numbers]
        self._seen = self._free.values()
        self.optimizer.zero_grad()
        loss = self._loss(samples, wanted, numbers)
        mean = finite(float(loss.detach()))
        if not loss.requires_grad:
            raise EvaluationError(
                "nothing can be learned: between palettes and outputs stand ops that only choose, such as argmax; give "
                "a model that ends before them"
            )
        loss.backward()
        self.optimizer.step()
        return mean

    @torch.no_grad()
    def judged(self, numbers: Sequence[int]) -> float:
        """The mean loss on samples of these numbers, with palettes as they would be stored."""
        self._seen = self._free.as_stored().values
        total = 0.0
        for start in range(0, len(numbers), self._schedule.batch):
            some = numbers[start : start + self._schedule.batch]
            samples, wanted = [self._samples[n] for n in some], [self._wanted[n] for n in some]
            total += float(self._loss(samples, wanted, some)) * len(some)
        return finite(total / len(numbers))

    def state(self) -> State:
        """Copies of what is trained."""
        return self._free.state()

    def restore(self, state: State) -> None:
        """Go back to one of :meth:`state`."""
        self._free.restore(state)

    def progress(self) -> State:
        """:meth:`state`, and what the optimizer knows of it."""
        return {**self.state(), **self.optimizer.state()}

    def resume(self, progress: State) -> None:
        """Go on from what :meth:`progress` gave. Raises KeyError, and ValueError, for what is none, before a change."""
        self._free.check(progress)
        self._free.restore(progress)
        self.optimizer.load(progress)

    def expressions(self) -> dict[str, WeightExpr]:
        """Palettes as they are stored, by slot."""
        stored = self._free.as_stored().palettes
        return {slot: palette.expression(self._dtypes[slot]) for slot, palette in stored.items()}

    def biases(self) -> dict[str, np.ndarray]:
        """float32, by slot."""
        return {slot: value.detach().numpy().copy() for slot, value in self._free.biases.items()}

    def _runner(self, changed: Mapping[str, torch.Tensor]) -> Any:
        """Of the whole program, where constants are as they are but for those in ``changed``."""
        constants = {**self._float, **(self._fixed if changed else {}), **changed}
        return runner(self._function, self._function.block.steps, constants, self._function.block.outputs)

    @torch.no_grad()
    def _given(self, samples: Sequence[Tensors]) -> list[Tensors]:
        """By the float program."""
        size = self._schedule.batch
        return [out for start in range(0, len(samples), size) for out in self._teacher(samples[start : start + size])]

    def _loss(self, samples: Sequence[Tensors], wanted: Sequence[Tensors], numbers: Sequence[int]) -> torch.Tensor:
        labels = self._schedule.labels
        own = None if labels is None else [int(labels[number]) for number in numbers]
        return self._distance(self._student(samples), wanted, own)
