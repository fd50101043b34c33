"""What a log shows of work that takes minutes, where there is no terminal for a bar: how far it is, now and then."""

from __future__ import annotations

import sys
import time
from contextlib import suppress

EVERY = 30.0  # seconds


class ProgressLines:
    """A line on standard error each half minute, as work goes on, where that is no terminal."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def tell(self, what: str, done: int, total: int) -> None:
        """``done`` of ``total`` are; ``what``: the work, in words."""
        now = time.monotonic()
        if now - self._last < EVERY:
            return
        self._last = now
        with suppress(AttributeError, OSError, ValueError):  # there may be no stream
            if not sys.stderr.isatty():
                write_line(f"mil_palettize: {what}, {done:,} of {total:,} done\n")


def write_line(line: str) -> None:
    """To standard error, if somebody listens."""
    with suppress(AttributeError, OSError, ValueError):
        sys.stderr.write(line)
        sys.stderr.flush()
