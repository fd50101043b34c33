"""Work on threads: results in order, memory in flight bounded by bytes. The compiled loops release the GIL."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from mil_palettize.errors import ConfigError

T = TypeVar("T")
# Weights being read and clustered at a time, together; a single larger one still goes through, alone.
BYTES_IN_FLIGHT = 128 << 20


class Workers:
    """``count`` threads for weights and as many for the groups within one, so that neither waits for itself.

    ``count`` None: the processors this process may use. One worker runs everything in the calling thread.
    """

    def __init__(self, count: int | None = None) -> None:
        if count is not None and (not isinstance(count, int) or count < 1):
            raise ConfigError(f"workers is {count!r}, it must be a whole number from 1 up, or left out")
        self.count = count or _processors()
        self._outer = ThreadPoolExecutor(self.count, "palettize") if self.count > 1 else None
        self._inner = ThreadPoolExecutor(self.count, "palettize-groups") if self.count > 1 else None

    @property
    def pmap(self) -> Callable[..., Iterable[Any]]:
        """Like ``map``, for pieces of one weight."""
        return map if self._inner is None else self._inner.map

    def ordered(self, tasks: Iterable[tuple[int, Callable[[], T]]]) -> Iterator[T]:
        """Results of (bytes, task) pairs in their order, no more than ``BYTES_IN_FLIGHT`` being worked on."""
        if self._outer is None:
            yield from (task() for _, task in tasks)
            return
        waiting: deque[tuple[int, Future[T]]] = deque()
        in_flight = 0
        for nbytes, task in tasks:
            while waiting and in_flight + nbytes > BYTES_IN_FLIGHT:
                done, future = waiting.popleft()
                yield future.result()
                in_flight -= done
            waiting.append((nbytes, self._outer.submit(task)))
            in_flight += nbytes
        while waiting:
            yield waiting.popleft()[1].result()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exception: object) -> None:
        for pool in (self._outer, self._inner):
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
