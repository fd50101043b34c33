"""Work on threads, or on whatever else an executor gives: results in order, memory in flight bounded by bytes.

The compiled loops release the GIL, so threads are enough on one machine.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from mil_palettize.errors import ConfigError, PalettizeError

logger = logging.getLogger("mil_palettize")
T = TypeVar("T")
# Weights being read and clustered at a time, together; a single larger one still goes through, alone.
BYTES_IN_FLIGHT = 128 << 20
# The same of an executor of the user's, where only palettes come back to this process.
BYTES_SENT_OUT = 1 << 30


class Workers:
    """``count`` threads for weights and as many for the groups within one, so that neither waits for itself.

    ``count`` None: the processors this process may use. One worker runs everything in the calling thread.
    ``executor``: takes the weights instead, any ``concurrent.futures.Executor``; it is not shut down.
    """

    def __init__(self, count: int | None = None, executor: Executor | None = None) -> None:
        if count is not None and (not isinstance(count, int) or count < 1):
            raise ConfigError(f"workers is {count!r}, it must be a whole number from 1 up, or left out")
        if executor is not None and not callable(getattr(executor, "submit", None)):
            raise ConfigError(f"executor is {executor!r}, it must be a concurrent.futures.Executor")
        if executor is not None and count is not None:
            raise ConfigError("workers and executor exclude each other: the executor has workers of its own")
        self.count = count or _processors()
        self.executor = executor
        threads = self.count > 1 and executor is None
        self._outer = ThreadPoolExecutor(self.count, "palettize") if threads else None
        self._inner = ThreadPoolExecutor(self.count, "palettize-groups") if threads else None

    @property
    def pmap(self) -> Callable[..., Iterable[Any]]:
        """Like ``map``, for pieces of one weight."""
        return map if self._inner is None else self._inner.map

    def ordered(self, tasks: Iterable[tuple[int, Callable[[], T]]]) -> Iterator[T]:
        """Results of (bytes, task) pairs in their order, so many bytes being worked on at most; larger ones of these
        are begun first.

        A task that an executor fails to carry out (a worker was killed, a task cannot be sent) is carried out here; its
        own errors are raised.
        """
        pool = self.executor or self._outer
        if pool is None:
            yield from (task() for _, task in tasks)
            return
        window: _Window[T] = _Window(pool, BYTES_IN_FLIGHT if self.executor is None else BYTES_SENT_OUT)
        try:
            for nbytes, task in tasks:
                while window.is_full(nbytes):
                    yield window.next()
                window.add(nbytes, task)
            while window.waiting:
                yield window.next()
        finally:
            window.cancel()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exception: object) -> None:
        for pool in (self._outer, self._inner):
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)


class _Entry(Generic[T]):
    def __init__(self, nbytes: int, task: Callable[[], T]) -> None:
        self.nbytes = nbytes
        self.task = task
        self.begun = False
        self.future: Future[T] | None = None  # None too where the executor would not take it


class _Window(Generic[T]):
    """Tasks whose results are still to come, in order."""

    def __init__(self, pool: Executor, most_bytes: int) -> None:
        self.pool = pool
        self.most_bytes = most_bytes
        self.waiting: deque[_Entry[T]] = deque()
        self._in_flight = 0

    def is_full(self, nbytes: int) -> bool:
        return bool(self.waiting) and self._in_flight + nbytes > self.most_bytes

    def add(self, nbytes: int, task: Callable[[], T]) -> None:
        self.waiting.append(_Entry(nbytes, task))
        self._in_flight += nbytes

    def next(self) -> T:
        """The first result. What has been added since the last call is begun, the largest first."""
        for entry in sorted((e for e in self.waiting if not e.begun), key=lambda e: -e.nbytes):
            self._begin(entry)
        entry = self.waiting.popleft()
        self._in_flight -= entry.nbytes
        if entry.future is not None:
            try:
                return entry.future.result()
            except PalettizeError:
                raise
            except Exception as error:
                logger.warning("the executor failed to carry out a task, which is done here instead: %r", error)
        return entry.task()

    def _begin(self, entry: _Entry[T]) -> None:
        entry.begun = True
        try:
            entry.future = self.pool.submit(entry.task)
        except Exception as error:
            logger.warning("the executor takes no more tasks, which are done here instead: %r", error)

    def cancel(self) -> None:
        """Drop what has not been begun."""
        for entry in self.waiting:
            if entry.future is not None:
                entry.future.cancel()


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
