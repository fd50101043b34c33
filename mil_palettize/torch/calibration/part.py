"""Samples that walk through a function together in one process: all of them, or those that one worker has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from mil_palettize.torch.calibration.behind import Behind, Tail, tail_of
from mil_palettize.torch.calibration.masks import counted, counted_arguments, kept_positions
from mil_palettize.torch.calibration.nested import Nested
from mil_palettize.torch.calibration.readers import LOOKED_UP, inputs, matrices, outputs_at, rows_read
from mil_palettize.torch.calibration.sources import Reader, Sources, sources_of
from mil_palettize.torch.calibration.streams import Stream
from mil_palettize.torch.calibration.sums import ReadMoments, Sums, is_whole
from mil_palettize.torch.calibration.trials import Tried, sensitivity
from mil_palettize.torch.evaluator.module import MILModule
from mil_palettize.torch.evaluator.program import Function, OpInfo, Step

Sample = Mapping[str, Any]
Ran = Callable[[], object]  # called after each sample
Key = tuple[str, int]  # slot of a weight, and which of its readers
_BLOCKS = 8  # of samples, whose sums are added in order: the same bytes however they are divided among workers


@dataclass(frozen=True, eq=False)
class Given:
    """A sample with its number. ``inputs``: tensors, as the program takes them; ``palettized``: as a palettized network
    before this one has them, None where that is the same; ``states``: what states hold before, zeros without."""

    number: int
    inputs: Sample
    palettized: Sample | None = None
    states: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class PartOptions:
    """``positions``, ``seed``, ``crossed``: as in :class:`WalkOptions`; ``memory``: bytes of values kept in memory;
    ``device``: that they are computed on."""

    positions: int
    seed: int
    memory: int
    device: str
    crossed: bool


class Route:
    """Which op of a function reads which of ``weights``, by the number of the op in the outermost block."""

    def __init__(self, function: Function, weights: Collection[str]) -> None:
        self.function = function
        self.sources: Sources = sources_of(function, weights)
        self.last: dict[int, list[str]] = defaultdict(list)  # weights by the last op that reads them
        self.own: dict[int, list[Key]] = defaultdict(list)  # readers by the op that they are
        self.nested: dict[int, list[Key]] = defaultdict(list)  # or in whose blocks they are
        self._tails: dict[int, Tail] = {}
        self._constants = {*function.constants, *(s for step in self.sources.derived.values() for s in step.outputs)}
        for slot, readers in self.sources.readers.items():
            for position, reader in enumerate(readers):
                (self.nested if reader.nested else self.own)[reader.number].append((slot, position))
            if readers:
                self.last[readers[-1].number].append(slot)

    def reader(self, key: Key) -> Reader:
        return self.sources.readers[key[0]][key[1]]

    @property
    def steps(self) -> Iterator[tuple[int, Step]]:
        """Ops that are run for every sample, with their numbers."""
        for number, step in enumerate(self.function.block.steps):
            if number not in self.sources.derived:
                yield number, step

    def behind(self, stream: Stream, key: Key) -> Tried | None:
        """A reader with what follows it; None for one that another array cannot be tried in."""
        reader, block = self.reader(key), self.function.block
        if reader.nested:
            return Nested.of(self.function, reader.number, key[0], self.sources.derived.values())
        following = block.steps[reader.number + 1 :]
        read = {slot for other in following for slot in other.slots_read()} | set(block.outputs)
        return Behind(stream, reader.step, reader.operand, reader.index, self.tail(reader.number), read)

    def tail(self, number: int) -> Tail:
        """Of op ``number``."""
        if number not in self._tails:
            steps, outputs = self.function.block.steps, self.function.block.outputs
            self._tails[number] = tail_of(steps[number], steps[number + 1 :], self._constants, outputs)
        return self._tails[number]


@dataclass(frozen=True, eq=False)
class Told:
    """What the samples of a block tell of the weights that an op reads. ``moments``: by reader; ``reads``: how often
    look-ups read each element, int64, by slot."""

    moments: dict[Key, ReadMoments]
    reads: dict[str, np.ndarray]


def blocks_of(numbers: Sequence[int]) -> list[tuple[int, ...]]:
    """Numbers of samples in blocks, which follow from how many there are."""
    count = min(_BLOCKS, len(numbers))
    bounds = [i * len(numbers) // count for i in range(count + 1)] if count else [0]
    return [tuple(numbers[a:b]) for a, b in pairwise(bounds)]


class Part:
    """``given``: the samples; ``blocks``: numbers of those that moments are made of, by the number of the block. Use as
    a context manager."""

    def __init__(
        self,
        module: MILModule,
        route: Route,
        given: Sequence[Given],
        blocks: Mapping[int, Sequence[int]],
        options: PartOptions,
    ) -> None:
        self.route, self.blocks, self.options = route, blocks, options
        self.places = {one.number: place for place, one in enumerate(given)}
        memory, device = options.memory // 2, options.device
        states = [one.states for one in given]
        self.float = Stream(module, [one.inputs for one in given], memory, states=states, device=device)
        others = [one.inputs if one.palettized is None else one.palettized for one in given]
        self.other = Stream(module, others, memory, states=states, device=device)
        self.kept = kept_positions(module, [one.inputs for one in given])
        self.apart = any(one.palettized is not None for one in given)  # whether the streams differ yet
        for stream in (self.float, self.other):
            stream.derive(route.sources.derived.values())

    def __enter__(self) -> Part:
        return self

    def __exit__(self, *exception: object) -> None:
        for stream in (self.float, self.other):
            stream.__exit__(*exception)

    def collect(self, number: int, keys: Sequence[Key]) -> dict[int, Told]:
        """What the inputs of an op tell of the weights that it reads itself, by block. ``keys``: of these readers."""
        return {block: self._told(number, keys, samples) for block, samples in self.blocks.items()}

    def _told(self, number: int, keys: Sequence[Key], samples: Sequence[int]) -> Told:
        block, step = _Block(self.route, self.options), self.route.function.block.steps[number]
        for sample in samples:
            place = self.places[sample]
            palettized = self.other.arguments(place, step)
            crossed = self.apart and self.options.crossed
            float_arguments = self.float.arguments(place, step) if crossed else None
            residual = self._residual(number, place) if crossed else None
            try:
                for key in keys:
                    block.add(key, sample, palettized, float_arguments, self.kept[place], residual)
            except Exception:
                self.other.results(step, palettized)  # which says what the op cannot do with these inputs
                raise
        return block.told()

    def _residual(self, number: int, place: int) -> torch.Tensor | None:
        """What the float network adds to the output of an op, less what the palettized one does; None for nothing."""
        slot = self.route.tail(number).residual
        if slot is None:
            return None
        one, two = self.float.values(place)[slot], self.other.values(place)[slot]
        return (one - two).nan_to_num(0.0, 0.0, 0.0) if one.shape == two.shape else None  # masks may be infinite

    def listen(self, number: int, keys: Sequence[Key]) -> dict[int, Told]:
        """The float stream through an op with blocks, and what the inputs of ops inside tell: weights inside are
        palettized together, for its inputs."""
        step, found = self.route.function.block.steps[number], {}
        counted = {sample for samples in self.blocks.values() for sample in samples}
        for name, samples in self.blocks.items():
            block = _Block(self.route, self.options)
            for sample in samples:
                self.float.advance(step, self.places[sample], _Inside(block, sample, keys))
            found[name] = block.told()
        for sample in self.places.keys() - counted:
            self.float.advance(step, self.places[sample])
        return found

    def sensitivity(self, key: Key) -> dict[int, np.ndarray]:
        """How much what comes out behind a reader depends on each element of its weight: sums, by block."""
        behind = self.route.behind(self.other, key)
        assert behind is not None
        return {
            block: sensitivity(
                self.other, behind, self.float.constants[key[0]], {s: self.places[s] for s in samples},
                self.options.seed, self.kept,
            )
            for block, samples in self.blocks.items()
        }  # fmt: skip

    def replace(self, slot: str, array: np.ndarray) -> None:
        """The second stream goes on with another array in the place of a constant."""
        self.apart = True
        value = torch.from_numpy(np.array(array, np.float32))
        self.other.replace(slot, value, self.route.sources.derived.values())

    def advance(self, number: int, ran: Ran | None = None) -> None:
        """Run an op for all samples, in the float stream where :meth:`listen` did not."""
        step = self.route.function.block.steps[number]
        for place in range(len(self.places)):
            if not self.route.nested[number]:
                self.float.advance(step, place)
            self.other.advance(step, place)
            if ran is not None:
                ran()

    def outputs(self) -> dict[int, tuple[dict[str, Any], dict[str, Any]]]:
        """By number of the sample: those of the float network, and of the palettized one."""
        both = list(zip(self.float.outputs(), self.other.outputs(), strict=True))
        return {number: both[place] for number, place in self.places.items()}


class _Block:
    """Sums over the samples of one block."""

    def __init__(self, route: Route, options: PartOptions) -> None:
        self.route, self.options = route, options
        self.sums: dict[Key, Sums] = {}
        self.reads: dict[str, np.ndarray] = {}

    def add(
        self, key: Key, sample: int, arguments: Mapping[str, Any], float_arguments: Mapping[str, Any] | None,
        kept: torch.Tensor | None = None, residual: torch.Tensor | None = None,
    ) -> None:  # fmt: skip
        """What one sample tells of a reader. ``kept``: positions that count, None for all; ``residual``: what is
        missing in what is added to the op's output, None for nothing."""
        reader = self.route.reader(key)
        step, operand, index = reader.step, reader.operand, reader.index
        every, arguments = arguments, counted_arguments(step.info.type, operand.parameter, arguments, kept)
        if residual is not None and arguments is not every:
            residual = counted(residual, kept)
        if float_arguments is not None:
            float_arguments = counted_arguments(step.info.type, operand.parameter, float_arguments, kept)
        if step.info.type in LOOKED_UP:
            counts = self.reads.setdefault(key[0], np.zeros(self.route.function.constants[key[0]].shape, np.int64))
            places = rows_read(step, arguments, index)
            np.add.at(counts.reshape(-1), places[places >= 0], 1)
            return
        if key not in self.sums:
            where = matrices(step, arguments, operand, index)
            if where is None or not is_whole(where):
                return
            self.sums[key] = Sums(where)
        own = self._inputs(reader, sample, arguments)
        floats = None if float_arguments is None else self._inputs(reader, sample, float_arguments)
        if residual is not None:
            random = self._random(reader, sample)
            residual = outputs_at(step, arguments, residual, self.options.positions, random)
        self.sums[key].add(own, floats, residual)

    def _inputs(self, reader: Reader, sample: int, arguments: Mapping[str, Any]) -> Any:
        random = self._random(reader, sample)
        return inputs(reader.step, arguments, reader.operand, self.options.positions, random)

    def _random(self, reader: Reader, sample: int) -> np.random.Generator:
        """The same positions whenever it is asked for."""
        return np.random.default_rng([self.options.seed, reader.number, sample])

    def told(self) -> Told:
        return Told({key: sums.moments() for key, sums in self.sums.items()}, self.reads)


class _Inside:
    """Hears of ops inside blocks, for one sample."""

    def __init__(self, block: _Block, sample: int, keys: Sequence[Key]) -> None:
        self.block, self.sample = block, sample
        self.keys: dict[int, list[Key]] = defaultdict(list)
        for key in keys:
            self.keys[id(block.route.reader(key).step.info)].append(key)

    def will_run(self, op: OpInfo, inputs: Mapping[str, Any]) -> None:
        for key in self.keys.get(id(op), ()):
            self.block.add(key, self.sample, inputs, None)

    def did_run(self, op: OpInfo, outputs: Sequence[Any]) -> None:
        """Nothing is asked of outputs."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums inside ops depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
