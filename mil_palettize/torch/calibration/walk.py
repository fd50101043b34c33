"""A function walked op by op with every sample, as the float network has it and as it is palettized so far.

Each op runs for every sample before the next one does: packages have batch 1. Where an op reads weights that are to be
palettized, the moments of its inputs are summed over the samples, a solver makes the palette, and the second stream
goes on with it. Both streams are computed on one thread, so that the same samples give the same bytes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mil_palettize.torch.calibration.lookups import Later, OutputTrial
from mil_palettize.torch.calibration.masks import counted_arguments, kept_positions
from mil_palettize.torch.calibration.readers import LOOKED_UP, inputs, matrices, rows_read
from mil_palettize.torch.calibration.sources import Reader, Sources, sources_of
from mil_palettize.torch.calibration.streams import Stream
from mil_palettize.torch.calibration.sums import ReadMoments, Sums, is_whole
from mil_palettize.torch.calibration.trials import Behind, Trial, sensitivity
from mil_palettize.torch.evaluator.module import MILModule
from mil_palettize.torch.evaluator.program import OpInfo, Step

Sample = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Collected:
    """What is known where a weight is to be palettized. ``slot``: its name in the program; ``moments``: of each op that
    multiplies with it, and for tables of how much the outputs change with the rows that are read; ``reads``: how often
    look-ups read each of its elements, int64 of its shape, None without any; ``trial``: the error of the op's output
    (of a table: of the function's) on held out samples with another array in the weight's place;
    ``sensitivity``: how much that output depends on each element, float64 of its shape, None where moments say that."""

    slot: str
    moments: tuple[ReadMoments, ...]
    reads: np.ndarray | None
    trial: Trial | OutputTrial | None
    sensitivity: np.ndarray | None = None


Progress = Callable[[int, int, str], object]
Solve = Callable[[Collected], "np.ndarray | None"]


@dataclass(frozen=True)
class WalkOptions:
    """``positions``: of a convolution that are looked at in each sample; ``seed``: of which these are; ``held``:
    samples, by number, that moments are not made of and errors are measured on; ``memory``: bytes of values that are
    kept in memory."""

    positions: int = 64
    seed: int = 0
    held: frozenset[int] = frozenset()
    memory: int = 1 << 31


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
    progress: Progress | None = None,
) -> Walked:
    """``samples``: tensors by input, as the program takes them; ``palettized``: the same as a palettized network before
    this one has them. ``weights``: slots of the constants that ``solve`` is asked for, in the order of the ops that
    read them last; it gives the array (of the weight's shape) to go on with, None for the weight as it is.
    ``progress``: told how many runs of ops are done, of how many (one for each sample), and the name of the op.

    Raises EvaluationError as :meth:`MILModule.run` does, PackageError where the temporary folder cannot take the values
    that are more than ``memory``.
    """
    with torch.no_grad(), one_thread():
        run = _Walk(module, samples, palettized, weights, solve, options)
        return run.over(progress)


def outputs_with(
    module: MILModule, samples: Sequence[Sample], arrays: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Outputs of every sample with other arrays in the place of constants, by slot."""
    derived = sources_of(module.function, ()).derived
    with torch.no_grad(), one_thread(), Stream(module, samples, 1 << 40) as stream:
        for slot, array in arrays.items():
            stream.replace(slot, torch.from_numpy(np.array(array, np.float32)), ())
        stream.derive(derived.values())
        for number, step in enumerate(module.function.block.steps):
            if number not in derived:
                stream.advance(step)
        return stream.outputs()


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums inside ops depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Walk:
    def __init__(
        self,
        module: MILModule,
        samples: Sequence[Sample],
        palettized: Sequence[Sample] | None,
        weights: Collection[str],
        solve: Solve,
        options: WalkOptions,
    ) -> None:
        self.function, self.solve, self.options = module.function, solve, options
        self.sources: Sources = sources_of(module.function, weights)
        self.last: dict[int, list[str]] = defaultdict(list)  # weights by the number of the last op that reads them
        self.readers: dict[int, list[tuple[str, Reader]]] = defaultdict(list)
        for slot, readers in self.sources.readers.items():
            for reader in readers:
                self.readers[reader.number].append((slot, reader))
            if readers:
                self.last[readers[-1].number].append(slot)
        self.sums: dict[tuple[str, int], Sums] = {}
        self.reads: dict[str, np.ndarray] = {}
        self.float = Stream(module, samples, options.memory // 2)
        self.other = Stream(module, palettized or samples, options.memory // 2)
        self.apart = palettized is not None  # whether the streams differ yet
        self.kept = kept_positions(module, samples)
        for stream in (self.float, self.other):
            stream.derive(self.sources.derived.values())

    def over(self, progress: Progress | None) -> Walked:
        steps = self.function.block.steps
        with self.float, self.other:
            for number, step in enumerate(steps):
                if number not in self.sources.derived:
                    self._through(number, step, progress)
            return Walked(self.float.outputs(), self.other.outputs())

    def _through(self, number: int, step: Step, progress: Progress | None) -> None:
        own = [(slot, reader) for slot, reader in self.readers[number] if not reader.nested]
        inside = [(slot, reader) for slot, reader in self.readers[number] if reader.nested]
        if own:
            self._collect(step, own)
        if inside:
            self._run_listening(step, inside)
        for slot in self.last[number]:
            self._palettize(slot, number, step if own else None)
        for sample in range(len(self.float)):
            if not inside:
                self.float.advance(step, sample)
            self.other.advance(step, sample)
            if progress is not None:
                count, steps = len(self.float), len(self.function.block.steps)
                progress(number * count + sample + 1, steps * count, step.info.name)

    def _collect(self, step: Step, readers: Sequence[tuple[str, Reader]]) -> None:
        for sample in range(len(self.float)):
            if sample in self.options.held:
                continue
            palettized = self.other.arguments(sample, step)
            float_arguments = self.float.arguments(sample, step) if self.apart else None
            for slot, reader in readers:
                self._add(slot, reader, sample, palettized, float_arguments)

    def _add(
        self,
        slot: str,
        reader: Reader,
        sample: int,
        arguments: Mapping[str, Any],
        float_arguments: Mapping[str, Any] | None,
    ) -> None:
        """Add what one sample tells of a reader."""
        step, operand, index = reader.step, reader.operand, reader.index
        kept = self.kept[sample]
        arguments = counted_arguments(step.info.type, operand.parameter, arguments, kept)
        if float_arguments is not None:
            float_arguments = counted_arguments(step.info.type, operand.parameter, float_arguments, kept)
        if step.info.type in LOOKED_UP:
            counts = self.reads.setdefault(slot, np.zeros(self.function.constants[slot].shape, np.int64))
            places = rows_read(step, arguments, index)
            np.add.at(counts.reshape(-1), places[places >= 0], 1)
            return
        key = slot, id(reader)
        if key not in self.sums:
            where = matrices(step, arguments, operand, index)
            if where is None or not is_whole(where):
                return
            self.sums[key] = Sums(where)
        found = [None if a is None else self._inputs(reader, sample, a) for a in (arguments, float_arguments)]
        assert found[0] is not None
        self.sums[key].add(found[0], found[1])

    def _inputs(self, reader: Reader, sample: int, arguments: Mapping[str, Any]) -> Any:
        random = np.random.default_rng([self.options.seed, reader.number, sample])
        return inputs(reader.step, arguments, reader.operand, self.options.positions, random)

    def _run_listening(self, step: Step, readers: Sequence[tuple[str, Reader]]) -> None:
        """The float stream through an op with blocks: weights inside are palettized together, for its inputs."""
        for sample in range(len(self.float)):
            listener = _Inside(self, sample, readers) if sample not in self.options.held else None
            self.float.advance(step, sample, listener)

    def _palettize(self, slot: str, number: int, step: Step | None) -> None:
        readers = self.sources.readers[slot]
        moments = tuple(self.sums.pop(k).moments() for r in readers if (k := (slot, id(r))) in self.sums)
        reads = self.reads.pop(slot, None)
        alone = readers[0] if step is not None and len(readers) == 1 and self.options.held else None
        if alone is None:
            found = Collected(slot, moments if reads is None else (), reads, None)
        elif reads is None:
            found = self._multiplied(slot, alone, moments)
        else:
            found = self._looked_up(slot, alone, reads)
        made = self.solve(found)
        if made is None:
            return
        self.apart = True
        self.other.replace(slot, torch.from_numpy(np.array(made, np.float32)), self.sources.derived.values())

    def _fit(self) -> list[int]:
        return [sample for sample in range(len(self.other)) if sample not in self.options.held]

    def _multiplied(self, slot: str, reader: Reader, moments: tuple[ReadMoments, ...]) -> Collected:
        """A weight with one reader, judged by what this gives."""
        block, held = self.function.block, sorted(self.options.held)
        following = block.steps[reader.number + 1 :]
        behind = Behind(self.float, reader.step, reader.operand, reader.index, following, block.outputs)
        trial = Trial(self.float, self.other, behind, held, self.kept)
        if not behind.saturates:
            return Collected(slot, moments, None, trial)
        weight = self.float.constants[slot]
        gradients = sensitivity(self.other, behind, weight, self._fit(), self.options.seed, self.kept)
        return Collected(slot, moments, None, trial, gradients)

    def _looked_up(self, slot: str, reader: Reader, reads: np.ndarray) -> Collected:
        """A table with one reader, judged by the outputs of the function where its rows are looked up as a whole."""
        block, held = self.function.block, sorted(self.options.held)
        later = Later.of(self.float, self.function, reader, self.sources.derived)
        if later is None:
            following = block.steps[reader.number + 1 :]
            behind = Behind(self.float, reader.step, reader.operand, reader.index, following, block.outputs)
            return Collected(slot, (), reads, Trial(self.float, self.other, behind, held, self.kept))
        moments = later.moments(self._fit(), self.kept, self.options.seed)
        return Collected(slot, (moments,), reads, OutputTrial(later, held))


class _Inside:
    """Hears of ops inside blocks, for one sample."""

    def __init__(self, walk: _Walk, sample: int, readers: Sequence[tuple[str, Reader]]) -> None:
        self.walk, self.sample = walk, sample
        self.readers: dict[int, list[tuple[str, Reader]]] = defaultdict(list)
        for slot, reader in readers:
            self.readers[id(reader.step.info)].append((slot, reader))

    def will_run(self, op: OpInfo, inputs: Mapping[str, Any]) -> None:
        for slot, reader in self.readers.get(id(op), ()):
            self.walk._add(slot, reader, self.sample, inputs, None)

    def did_run(self, op: OpInfo, outputs: Sequence[Any]) -> None:
        """Nothing is asked of outputs."""
