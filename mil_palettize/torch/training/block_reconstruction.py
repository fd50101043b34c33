"""Block reconstruction (after BRECQ, arXiv 2102.05426): tables, scales and biases of one block after another fitted to
what it gives in the float program, from what the blocks before it give by now. Which entry an element has stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mil_palettize.expressions.weight_expr import WeightExpr
from mil_palettize.torch.evaluator.module import MILModule
from mil_palettize.torch.evaluator.program import Step
from mil_palettize.torch.metrics import outputs_noise
from mil_palettize.torch.training.batches import Batched, floats_of, inputs_of, runner
from mil_palettize.torch.training.blocks import Block, blocks_of
from mil_palettize.torch.training.free_parts import FreeParts, State
from mil_palettize.torch.training.kept_blocks import KeptBlocks
from mil_palettize.torch.training.relative_adam import finite
from mil_palettize.torch.training.schedule import Schedule, Tell, nothing_kept
from mil_palettize.torch.training.task import TrainingTask
from mil_palettize.torch.training.trained_palette import TrainedPalette

_LEAST = 1e-12
Values = Mapping[str, Any]  # by slot


@dataclass(frozen=True)
class Reconstructed:
    """``expressions`` and ``biases``: of the blocks that got better, ``better`` of ``count``, by slot; ``noise``: of
    outputs on what was held out by their power, before and after. Where that is not less, nothing is changed."""

    expressions: Mapping[str, WeightExpr]
    biases: Mapping[str, np.ndarray]
    better: int
    count: int
    noise: tuple[float, float]


def reconstructed(task: TrainingTask, tell: Tell | None = None, kept: KeptBlocks | None = None) -> Reconstructed:
    """``task``: palettes are fitted; ``epochs`` of its schedule are those of each block. ``tell``: blocks done, of how
    many, and what came of them. ``kept``: where each block is kept, and found by a later run.

    Raises EvaluationError where an error is no number, PlanError where it is to stop here, and no block is kept.
    """
    module, palettes = task.module, task.palettes
    begun = {slot: palette.values for slot, (palette, _) in palettes.items()}
    begun |= {slot: torch.from_numpy(np.array(array, np.float32)) for slot, array in task.fixed.items()}
    run = _Run(module, task.samples, begun, task.schedule)
    blocks = blocks_of(module.function, list(palettes))
    parts = [run.parts(block, {s: palettes[s][0] for s in block.weights}, task.biases) for block in blocks]
    states = [] if kept is None else kept.found(parts)
    if task.schedule.stop_here and not states:
        raise nothing_kept("block")
    made: dict[str, TrainedPalette] = {}
    changed: dict[str, torch.Tensor] = {}
    better = 0
    for number, (block, free) in enumerate(zip(blocks, parts, strict=True)):
        new = number == len(states)
        if new and task.schedule.stop_here:
            break
        if new:
            states.append(run.fitted(block, free))
            if kept is not None:
                kept.keep(states)
        if (state := states[number]) is not None:
            free.restore(state)
            found = free.as_stored()
            run.replace(found.values)
            made, changed, better = {**made, **found.palettes}, {**changed, **found.biases}, better + 1
        run.advance(block, _read(step for later in blocks[number + 1 :] for step in later.steps))
        if new and tell is not None:
            tell(number + 1, len(blocks), f"{better} blocks got better")
    noise = run.noise(begun), run.noise({**begun, **{s: p.values for s, p in made.items()}, **changed})
    if not noise[1] < noise[0]:
        return Reconstructed({}, {}, 0, len(blocks), noise)
    expressions = {slot: palette.expression(palettes[slot][1]) for slot, palette in made.items()}
    return Reconstructed(expressions, {s: v.numpy() for s, v in changed.items()}, better, len(blocks), noise)


class _Run:
    """All samples on their way through the program as it is, and through the palettized one, where constants have the
    values ``begun`` until others are found."""

    def __init__(
        self, module: MILModule, samples: Sequence[Mapping[str, Any]], begun: Values, schedule: Schedule
    ) -> None:
        self._function, self._schedule = module.function, schedule
        self._float = floats_of(module)
        self._palettized = {**self._float, **begun}
        self._inputs = inputs_of(module, samples)
        self._ways = (list(self._inputs), list(self._inputs))  # values of each sample so far, float and palettized
        held = sorted(schedule.held)
        self._learned = [number for number in range(len(samples)) if number not in schedule.held]
        self._judged = held or self._learned

    @torch.no_grad()
    def advance(self, block: Block, needed: frozenset[str]) -> None:
        """Both ways to the end of the block. ``needed``: slots that are read after it."""
        gives = [slot for step in block.steps for slot in step.outputs if slot in needed]
        if not gives:  # the end
            return
        for way, constants in zip(self._ways, (self._float, self._palettized), strict=True):
            run = Batched(runner(self._function, block.steps, constants, gives))
            for numbers in self._batches(range(len(way))):
                for number, found in zip(numbers, run([way[n] for n in numbers]), strict=True):
                    way[number] = {s: v for s, v in {**way[number], **found}.items() if s in needed}

    @torch.no_grad()
    def noise(self, values: Values) -> float:
        """Of the outputs on what is held out, with constants of these values."""
        function = self._function
        sides = []
        for constants in (self._float, {**self._float, **values}):
            run = Batched(runner(function, function.block.steps, constants, function.block.outputs))
            batches = self._batches(self._judged)
            sides.append([out for numbers in batches for out in run([self._inputs[n] for n in numbers])])
        return outputs_noise(*sides)

    def parts(self, block: Block, palettes: Mapping[str, TrainedPalette], biases: Iterable[str]) -> FreeParts:
        """Of a block: its ``palettes``, and those of ``biases`` that it reads."""
        read = _read(block.steps)
        return FreeParts(palettes, {slot: self._float[slot] for slot in biases if slot in read}, fixed=True)

    def replace(self, values: Values) -> None:
        """The palettized program goes on with them."""
        self._palettized.update(values)

    def fitted(self, block: Block, free: FreeParts) -> State | None:
        """The state of ``free``, the block's, in which its error on what is held out is least; None where no epoch
        makes it less."""
        error = self._error_of(block)
        if error is None:
            return None
        schedule = self._schedule
        steps = schedule.epochs * -(-len(self._learned) // schedule.batch)
        optimizer = free.optimizer(schedule.learning_rate, steps)
        order = np.random.default_rng(schedule.seed)
        least = self._judge(error, free.as_stored().values)
        best: State | None = None
        for _ in range(schedule.epochs):
            for numbers in self._batches(order.permutation(self._learned).tolist()):
                optimizer.zero_grad()
                loss = error(numbers, free.values())
                finite(float(loss.detach()))
                if not loss.requires_grad:  # it gives choices, such as those of argmax
                    return None
                loss.backward()
                optimizer.step()
            found = self._judge(error, free.as_stored().values)
            if found < least:
                least, best = found, free.state()
        return best

    def _error_of(self, block: Block) -> Callable[[Sequence[int], Values], torch.Tensor] | None:
        """Of samples and values of constants, the mean over the block's results of their squared error by their power,
        summed over the samples; None where it gives no floats."""
        before, own = self._ways
        with torch.no_grad():
            run = Batched(runner(self._function, block.steps, self._float, block.gives))
            numbers = self._batches(range(len(before)))
            wanted = [out for some in numbers for out in run([before[number] for number in some])]
        floats = [slot for slot in block.gives if wanted[0][slot].is_floating_point()]
        if not floats:
            return None
        power = {s: sum(float(one[s].double().square().sum()) for one in wanted) / len(wanted) for s in floats}

        def error(numbers: Sequence[int], values: Values) -> torch.Tensor:
            run = Batched(runner(self._function, block.steps, {**self._palettized, **values}, floats))
            found = run([own[number] for number in numbers])
            parts = [
                (out[slot] - wanted[number][slot]).square().sum() / max(power[slot], _LEAST)
                for number, out in zip(numbers, found, strict=True)
                for slot in floats
            ]
            return torch.stack(parts).sum() / len(floats)

        return error

    @torch.no_grad()
    def _judge(self, error: Callable[[Sequence[int], Values], torch.Tensor], values: Values) -> float:
        return finite(sum(float(error(numbers, values)) for numbers in self._batches(self._judged)))

    def _batches(self, numbers: Sequence[int]) -> Iterator[Sequence[int]]:
        size = self._schedule.batch
        return ([int(n) for n in numbers[start : start + size]] for start in range(0, len(numbers), size))


def _read(steps: Iterable[Step]) -> frozenset[str]:
    return frozenset(slot for step in steps for slot in step.slots_read())
