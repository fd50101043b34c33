"""A function walked op by op with every sample, as the float network has it and as it is palettized so far.

Each op runs for every sample before the next one does: packages have batch 1. Where an op reads weights that are to be
palettized, the moments of its inputs are summed over the samples, a solver makes the palette, and the second stream
goes on with it. Both streams are computed on one thread, and sums are those of fixed blocks of samples, so that the
same samples give the same bytes, also where workers of an executor take some of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from mil_palettize.torch.calibration.part import Given, Key, Part, PartOptions, Route, Sample, blocks_of, one_thread
from mil_palettize.torch.calibration.sources import sources_of
from mil_palettize.torch.calibration.streams import Stream
from mil_palettize.torch.calibration.sums import ReadMoments, added
from mil_palettize.torch.calibration.trials import Trial, Trials
from mil_palettize.torch.calibration.workers import Workers, call_workers
from mil_palettize.torch.evaluator.module import MILModule


@dataclass(frozen=True, eq=False)
class Collected:
    """What is known where a weight is to be palettized. ``slot``: its name in the program; ``moments``: of each op that
    multiplies with it; ``reads``: how often look-ups read each of its elements, int64 of its shape, None without any;
    ``trial``: the error of what comes out behind the op on held out samples with another array in the weight's place;
    ``sensitivity``: how much that depends on each element, float64 of its shape, None where moments say that;
    ``spread``: like ``map``, on the workers of an executor where there is one."""

    slot: str
    moments: tuple[ReadMoments, ...]
    reads: np.ndarray | None
    trial: Trial | Trials | None
    sensitivity: np.ndarray | None = None
    spread: Callable[..., Iterable[Any]] = map


Progress = Callable[[int, int, str], object]
Solve = Callable[[Collected], "np.ndarray | None"]


@dataclass(frozen=True)
class WalkOptions:
    """``positions``: of a convolution that are looked at in each sample; ``seed``: of which these are; ``held``:
    samples, by number, that moments are not made of and errors are measured on; ``memory``: bytes of values that are
    kept in memory; ``device``: what torch computes on; ``crossed``: whether moments are also made of the inputs that
    the float network has; ``sensitive``: whether it is found how much outputs depend on elements, where they saturate.
    """

    positions: int = 64
    seed: int = 0
    held: frozenset[int] = frozenset()
    memory: int = 1 << 31
    device: str = "cpu"
    crossed: bool = True
    sensitive: bool = True


@dataclass(frozen=True, eq=False)
class Walked:
    """Outputs by name of every sample, of the float network and of the palettized one."""

    before: list[dict[str, Any]]
    after: list[dict[str, Any]]


def walk(
    module: MILModule,
    samples: Sequence[Sample],
    weights: Collection[str],
    solve: Solve,
    options: WalkOptions,
    *,
    palettized: Sequence[Sample] | None = None,
    states: Sequence[Mapping[str, torch.Tensor]] | None = None,
    progress: Progress | None = None,
    executor: Executor | None = None,
    known: Mapping[str, np.ndarray] | None = None,
) -> Walked:
    """``samples``: tensors by input, as the program takes them; ``palettized``: the same as a palettized network before
    this one has them; ``states``: what states hold before each, zeros without. ``weights``: slots of the constants that
    ``solve`` is asked for, in the order of the ops that read them last; it gives the array (of the weight's shape) to
    go on with, None for the weight as it is. ``progress``: told how many runs of ops are done, of how many (one for
    each sample), and the name of the op. ``executor``: whose workers take samples of their own, and keep the values of
    these; what they fail at is done here. ``known``: arrays for some of ``weights`` that ``solve`` is not asked for.

    Raises EvaluationError as :meth:`MILModule.run` does, PackageError where the temporary folder cannot take the values
    that are more than ``memory``.
    """
    given = [
        Given(
            number,
            sample,
            None if palettized is None else palettized[number],
            {} if states is None else states[number],
        )
        for number, sample in enumerate(samples)
    ]
    with torch.no_grad(), one_thread():
        return _Walk(module, given, weights, solve, options, executor, known or {}).over(progress)


def outputs_with(
    module: MILModule,
    samples: Sequence[Sample],
    arrays: Mapping[str, np.ndarray],
    *,
    states: Sequence[Mapping[str, torch.Tensor]] | None = None,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Outputs of every sample with other arrays in the place of constants, by slot."""
    derived = sources_of(module.function, ()).derived
    with torch.no_grad(), one_thread(), Stream(module, samples, 1 << 40, states=states, device=device) as stream:
        for slot, array in arrays.items():
            stream.replace(slot, torch.from_numpy(np.array(array, np.float32)), ())
        stream.derive(derived.values())
        for number, step in enumerate(module.function.block.steps):
            if number not in derived:
                stream.advance(step)
        return stream.outputs()


class _Walk:
    """``parts``: in this process, the first of samples held out and whatever no worker has; then what was taken back
    from workers that were lost."""

    def __init__(
        self,
        module: MILModule,
        given: Sequence[Given],
        weights: Collection[str],
        solve: Solve,
        options: WalkOptions,
        executor: Executor | None,
        known: Mapping[str, np.ndarray],
    ) -> None:
        self.known = known
        self.module, self.given, self.solve, self.options = module, given, solve, options
        self.route = Route(module.function, weights)
        fit = [one.number for one in given if one.number not in options.held]
        self.blocks, self.fit = dict(enumerate(blocks_of(fit))), len(fit)
        self.executor, self.weights = executor, list(weights)
        self.workers, self.parts = Workers([]), list[Part]()
        self.done: list[tuple[str, tuple[Any, ...]]] = []  # what changed the parts, for those that are taken back
        self.moments: dict[Key, ReadMoments] = {}
        self.reads: dict[str, np.ndarray] = {}
        self.trials: dict[str, list[Trial]] = defaultdict(list)
        self.gradients: dict[str, np.ndarray] = {}

    def over(self, progress: Progress | None) -> Walked:
        total = len(self.given) * len(self.route.function.block.steps)
        try:
            self._begin()
            for number, step in self.route.steps:
                self._try(number)
                self._collect(number)
                for slot in self.route.last[number]:
                    self._palettize(slot)
                self._advance(number, step.info.name, total, progress)
            outputs = self._everywhere("outputs")
        finally:
            self.workers.close()
            for part in self.parts:
                part.__exit__()
        both = [outputs[one.number] for one in self.given]
        return Walked([before for before, _ in both], [after for _, after in both])

    def _begin(self) -> None:
        asked = self.options
        options = PartOptions(asked.positions, asked.seed, asked.memory, asked.device, asked.crossed)
        call_workers(self.workers, self.executor, self.module, self.weights, self.given, self.blocks, options)
        shared = [worker.share.blocks for worker in self.workers.workers]
        options = replace(options, memory=options.memory // (len(shared) + 1))
        away = {number for blocks in shared for numbers in blocks.values() for number in numbers}
        own = {block: numbers for block, numbers in self.blocks.items() if not any(block in some for some in shared)}
        here = [one for one in self.given if one.number not in away]
        self.parts.append(Part(self.module, self.route, here, own, options))

    def _advance(self, number: int, name: str, total: int, progress: Progress | None) -> None:
        done = number * len(self.given)

        def ran(count: int = 1) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(done, total, name)

        away = self.workers.samples
        self._everywhere("advance", number, last=(ran,), changes=True)
        if away:
            ran(away)

    def _everywhere(self, command: str, *arguments: Any, last: tuple[Any, ...] = (), changes: bool = False) -> Any:
        """A method of all parts, and of those that workers have: results by block or sample, together. ``last``: for
        the parts here only; ``changes``: it changes them."""
        self.workers.ask(command, *arguments)
        found = [getattr(part, command)(*arguments, *last) for part in self.parts]
        answers, lost = self.workers.answers()
        found += answers
        for share in lost:
            part = Part(self.module, self.route, share.given, share.blocks, share.options)
            self.parts.append(part)
            for before, given in self.done:
                getattr(part, before)(*given)
            found.append(getattr(part, command)(*arguments))
        if changes:
            self.done.append((command, arguments))
            return None
        return {name: value for one in found for name, value in one.items()}

    def _collect(self, number: int) -> None:
        """What the op tells of the weights that it, or one in its blocks, reads; block by block in order."""
        found = []
        own, nested = (
            [key for key in keys if key[0] not in self.known]
            for keys in (self.route.own[number], self.route.nested[number])
        )
        if own:
            found.append(self._everywhere("collect", number, own))
        if self.route.nested[number]:
            found.append(self._everywhere("listen", number, nested))
            self.done.append(("listen", (number, nested)))
        for told in (blocks[block] for blocks in found for block in sorted(blocks)):
            for key, moments in told.moments.items():
                self.moments[key] = added(self.moments[key], moments) if key in self.moments else moments
            for slot, reads in told.reads.items():
                self.reads[slot] = self.reads[slot] + reads if slot in self.reads else reads

    def _try(self, number: int) -> None:
        """Keep what trials need of the op, as it is before the op runs, until the last one that reads a weight."""
        first = self.parts[0]
        held = [first.places[sample] for sample in sorted(self.options.held)]
        for key in [*self.route.own[number], *self.route.nested[number]] if held else ():
            behind = None if key[0] in self.known else self.route.behind(first.other, key)
            if behind is None:
                continue
            self.trials[key[0]].append(Trial(first.float, first.other, behind, held, first.kept))
            if behind.saturates and self.options.sensitive:
                self.gradients[key[0]] = self.gradients.get(key[0], 0.0) + self._sensitivity(key)

    def _palettize(self, slot: str) -> None:
        found = self.known[slot] if slot in self.known else self._solved(slot)
        if found is not None:
            self._everywhere("replace", slot, found, changes=True)

    def _solved(self, slot: str) -> np.ndarray | None:
        readers = self.route.sources.readers[slot]
        keys = [(slot, position) for position in range(len(readers))]
        moments = tuple(self.moments.pop(key) for key in keys if key in self.moments)
        tried = self.trials.pop(slot, [])
        trial = None if len(tried) < len(keys) else tried[0] if len(tried) == 1 else Trials(tried)
        gradients = self.gradients.pop(slot, None)
        spread = self.workers.spread if self.workers.workers else map
        return self.solve(Collected(slot, moments, self.reads.pop(slot, None), trial, gradients, spread))

    def _sensitivity(self, key: Key) -> np.ndarray:
        blocks = self._everywhere("sensitivity", key)
        total = np.sum([blocks[block] for block in sorted(blocks)], axis=0)
        return np.asarray(total / max(1, self.fit))
