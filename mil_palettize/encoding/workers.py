"""Work on threads, or on whatever else an executor gives: results in order, memory in flight bounded by bytes.

The compiled loops release the GIL, so threads are enough on one machine.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Generic, TypeVar

from mil_palettize.errors import AlgorithmError, ConfigError

logger = logging.getLogger("mil_palettize")
T = TypeVar("T")
# Weights being read and clustered at a time, together; a single larger one still goes through, alone.
BYTES_IN_FLIGHT = 72 << 20
# The same of an executor of the user's, where only palettes come back to this process.
BYTES_SENT_OUT = 1 << 30


class Workers:
    """``count`` threads for weights and as many for the groups within one, so that neither waits for itself.

    ``count`` None: the processors this process may use. The calling thread only waits, so that a signal is heard while
    compiled loops run. After a ``KeyboardInterrupt`` they are not waited for: what they make is dropped.
    ``executor``: takes the weights instead, anything with the ``submit`` of a ``concurrent.futures.Executor``. It is
    not shut down, and what was not begun is taken back from it on leaving the ``with`` block.
    """

    def __init__(self, count: int | None = None, executor: Executor | None = None) -> None:
        if count is not None and (not isinstance(count, int) or count < 1):
            raise ConfigError(f"workers is {count!r}, it must be a whole number from 1 up, or left out")
        if executor is not None and (isinstance(executor, type) or not callable(getattr(executor, "submit", None))):
            raise ConfigError(f"executor is {executor!r}, it must be a concurrent.futures.Executor")
        if executor is not None and count is not None:
            raise ConfigError("workers and executor exclude each other: the executor has workers of its own")
        self.count = count or _processors()
        self.executor = executor
        self._outer = ThreadPoolExecutor(self.count, "palettize")
        self._inner = ThreadPoolExecutor(self.count, "palettize-groups") if self.count > 1 else None
        self._windows: list[_Window[Any]] = []

    @property
    def pmap(self) -> Callable[..., Iterable[Any]]:
        """Like ``map``, for pieces of one weight."""
        return map if self._inner is None else self._inner.map

    def ordered(self, tasks: Iterable[tuple[int, Callable[[], T]]], *, here: bool = False) -> Iterator[T]:
        """Results of (bytes, task) pairs in their order, so many bytes being worked on at most; larger ones of these
        are begun first. ``here``: the tasks cannot be sent to other processes; an executor is not asked.

        A task that an executor fails to carry out (a worker was killed, a task cannot be sent, a file is not to be
        seen from there) is carried out here, which the log says once. Raises what a task raises here, and
        AlgorithmError wherever it was raised: that comes of the values alone.
        """
        window: _Window[T]
        if self.executor is not None and not here:
            window = _SentOut(self.executor, BYTES_SENT_OUT)
        else:  # a single worker has nothing to read ahead for
            window = _Window(self._outer, BYTES_IN_FLIGHT if self.count > 1 else 0)
        self._windows.append(window)
        try:
            for nbytes, task in tasks:
                while window.is_full(nbytes):
                    yield window.next()
                window.add(nbytes, task)
            while window.waiting:
                yield window.next()
        finally:
            window.cancel()
            self._windows.remove(window)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        for window in self._windows:  # an error's traceback may keep their loops alive
            window.cancel()
        for pool in (self._outer, self._inner):
            if pool is not None:
                pool.shutdown(wait=not interrupted, cancel_futures=True)


class _Entry(Generic[T]):
    def __init__(self, nbytes: int, task: Callable[[], T]) -> None:
        self.nbytes = nbytes
        self.task = task
        self.future: Future[T] | None = None


class _Window(Generic[T]):
    """Tasks whose results are still to come, in order."""

    def __init__(self, pool: Executor, most_bytes: int) -> None:
        self.pool = pool
        self.most_bytes = most_bytes
        self.waiting: deque[_Entry[T]] = deque()
        self._added: list[_Entry[T]] = []  # and not begun
        self._in_flight = 0

    def is_full(self, nbytes: int) -> bool:
        return bool(self.waiting) and self._in_flight + nbytes > self.most_bytes

    def add(self, nbytes: int, task: Callable[[], T]) -> None:
        entry = _Entry(nbytes, task)
        self.waiting.append(entry)
        self._added.append(entry)
        self._in_flight += nbytes

    def next(self) -> T:
        """The first result. What has been added since the last call is begun, the largest first."""
        for entry in sorted(self._added, key=lambda e: -e.nbytes):
            self._begin(entry)
        self._added.clear()
        result = self._result(self.waiting[0])  # which stays among those to be cancelled while it is waited for
        self._in_flight -= self.waiting.popleft().nbytes
        return result

    def _begin(self, entry: _Entry[T]) -> None:
        entry.future = self.pool.submit(entry.task)

    def _result(self, entry: _Entry[T]) -> T:
        assert entry.future is not None
        return entry.future.result()

    def cancel(self) -> None:
        """Drop what has not been begun."""
        for entry in self.waiting:
            if entry.future is not None:
                with suppress(Exception):  # of an executor that is broken
                    entry.future.cancel()


class _SentOut(_Window[T]):
    """The same on an executor of the user's. An entry it would not take has no future."""

    _told = False

    def _begin(self, entry: _Entry[T]) -> None:
        try:
            super()._begin(entry)
        except Exception as error:
            self._tell(error)

    def _result(self, entry: _Entry[T]) -> T:
        if entry.future is not None:
            try:
                return super()._result(entry)
            except AlgorithmError:
                raise
            except Exception as error:
                self._tell(error)
        return entry.task()

    def _tell(self, error: Exception) -> None:
        level = logging.DEBUG if self._told else logging.WARNING
        logger.log(level, "the executor failed at a task, which is done here, as are others it fails at: %r", error)
        self._told = True


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
