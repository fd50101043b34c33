"""Parts of a walk on the workers of an executor: values stay with the worker that makes them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

import torch

from mil_palettize.torch.calibration.links import Invitation, Link, LostError, links_to, serve
from mil_palettize.torch.calibration.part import Given, Part, PartOptions, Route, one_thread
from mil_palettize.torch.evaluator.module import MILModule, ModuleReference

logger = logging.getLogger("mil_palettize")


@dataclass(frozen=True, eq=False)
class Share:
    """What a worker is to walk with. ``weights``: that are to be palettized, by slot."""

    module: ModuleReference
    weights: tuple[str, ...]
    given: tuple[Given, ...]
    blocks: Mapping[int, Sequence[int]]
    options: PartOptions


class Worker:
    """One that walks with a share. ``samples``: how many."""

    def __init__(self, link: Link, share: Share) -> None:
        self.link, self.share = link, share
        link.ask("begin", share)

    @property
    def samples(self) -> int:
        return len(self.share.given)

    def begun(self) -> bool:
        """Whether it could open the package and take the samples."""
        try:
            self.link.answer()
        except LostError as error:
            _tell(error)
            return False
        return True


class Workers:
    """Those that came; none without an executor. Every method of :class:`Part` is asked of all of them at once."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self.workers = list(workers)

    @property
    def samples(self) -> int:
        return sum(worker.samples for worker in self.workers)

    def ask(self, command: str, *arguments: Any) -> None:
        for worker in self.workers:
            worker.link.ask(command, *arguments)

    def answers(self) -> tuple[list[Any], list[Share]]:
        """Of the last request, and the shares of workers that were lost, which are none of these any more."""
        found, lost = [], []
        for worker in list(self.workers):
            try:
                found.append(worker.link.answer())
            except LostError as error:
                _tell(error)
                lost.append(worker.share)
                self.workers.remove(worker)
        return found, lost

    def spread(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """As ``map``: items in turn for those who are there, this process among them. What a worker fails at is done
        here."""
        listed = list(items)
        found: dict[int, Any] = {}
        count = len(self.workers) + 1
        for number, worker in enumerate(self.workers, 1):
            worker.link.ask("each", function, listed[number::count])
        for place in range(0, len(listed), count):
            found[place] = function(listed[place])
        for number, worker in enumerate(self.workers, 1):
            places = range(number, len(listed), count)
            try:
                results = worker.link.answer()
            except LostError as error:  # whose share is taken back with the next request
                _tell(error)
                results = None
            if results is None:
                results = [function(listed[place]) for place in places]
            found.update(zip(places, results, strict=True))
        return [found[place] for place in range(len(listed))]

    def close(self) -> None:
        for worker in self.workers:
            worker.link.close()


def call_workers(
    workers: Workers,
    executor: Executor | None,
    module: MILModule,
    weights: Sequence[str],
    given: Sequence[Given],
    blocks: Mapping[int, Sequence[int]],
    options: PartOptions,
) -> None:
    """Divide blocks of samples among as many workers as come, who are added to ``workers``."""
    if executor is None or not blocks:
        return
    links, why = links_to(executor, len(blocks), walk_along)
    if not links:
        _tell(LostError(why or "no worker called back"))
        return
    by_number = {one.number: one for one in given}
    own = replace(options, memory=options.memory // (len(links) + 1))
    reference = module.reference
    for place, link in enumerate(links):
        taken = {block: blocks[block] for block in sorted(blocks)[place :: len(links)]}
        samples = tuple(by_number[number] for numbers in taken.values() for number in numbers)
        workers.workers.append(Worker(link, Share(reference, tuple(weights), samples, taken, own)))
    workers.workers[:] = [worker for worker in workers.workers if worker.begun()]


def walk_along(invitation: Invitation) -> None:
    """The task of a worker."""
    connection = invitation.accept()
    if connection is None:
        return
    walker = _Walker()
    try:
        with torch.no_grad(), one_thread():
            serve(connection, walker.carry_out)
    finally:
        walker.end()


class _Walker:
    def __init__(self) -> None:
        self.part: Part | None = None

    def carry_out(self, command: str, *arguments: Any) -> Any:
        if command == "begin":
            (share,) = arguments
            module = share.module.open()
            self.part = Part(module, Route(module.function, share.weights), share.given, share.blocks, share.options)
            return None
        if command == "each":
            return _each(*arguments)
        return getattr(self.part, command)(*arguments)

    def end(self) -> None:
        if self.part is not None:
            self.part.__exit__()


def _each(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any] | None:
    """None for an error, which the process that asks meets itself."""
    try:
        return [function(item) for item in items]
    except Exception:
        return None


def _tell(error: LostError) -> None:
    logger.warning("the executor failed at a part of the calibration, which is done here: %s", error)
