"""What a person watching sees while models are run and palettes verified: what is done, and of how much."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mil_palettize.reports.progress_lines import ProgressLines

_COUNTED = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]"
Count = Callable[[str, int, int], object]  # what is done, how much of it, of how much


class CountedBar:
    """A bar over samples, or whatever else is done one by one, with the time that is left, on standard error where that
    is a terminal, else a line now and then. Each kind of work has its own, which begins with the first :meth:`count`
    of it."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._work: tuple[str, int] = "", 0
        self._done = 0
        self._lines = ProgressLines()

    def count(self, what: str, done: int, total: int) -> None:
        """``done`` of ``total`` are; ``what``: the work, in words."""
        from tqdm import tqdm

        if self._bar is None or (what, total) != self._work or done < self._done:
            self.close()
            self._work, self._done = (what, total), 0
            self._bar = tqdm(desc=what, total=total, leave=False, dynamic_ncols=True, disable=None, bar_format=_COUNTED)
        self._bar.update(done - self._done)
        self._done = done
        self._lines.tell(what, done, total)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


@contextmanager
def counting(progress: bool | Count | None) -> Iterator[Count]:
    """What tells of work: a bar for True, which ends with the block, ``progress`` itself, or nobody."""
    if progress is not True:
        yield progress or untold
        return
    bar = CountedBar()
    try:
        yield bar.count
    finally:
        bar.close()


def untold(what: str, done: int, total: int) -> None:
    """A :data:`Count` that tells nobody."""
