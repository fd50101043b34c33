"""Signals that ask the command to stop: the first is told and unwinds what is done, the second ends the process."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_STOPPING = b"mil-palettize: stopping; once more to end at once\n"
_PATIENCE = 0.5  # seconds
_EXIT = 128  # and the number of the signal, as shells have it
# Left as they are where somebody else handles them, and where they are ignored, as nohup does.
_HANDLED = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}


class Stopped(KeyboardInterrupt):
    """Raised where the program is when the first signal comes. ``exit_code``: 130, 143 or 129."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = _EXIT + number


class _Stop:
    """Handles every signal of one command. ``at_once``: the first one ends the process as well."""

    def __init__(self) -> None:
        self.at_once: bytes = b""
        self.stopped = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.at_once and not self.stopped:
            _write(self.at_once)
        if self.at_once or self.stopped:
            os._exit(_EXIT + number)
        self.stopped = True
        if number == signal.SIGINT:  # somebody sits there and waits
            _write(_STOPPING)
        raise Stopped(number)


_STOP = _Stop()


@contextmanager
def stopping() -> Iterator[None]:
    """Within, signals raise :class:`Stopped` in the main thread; elsewhere nothing changes."""
    previous = {}
    _STOP.stopped = False
    try:
        for number, usual in _HANDLED.items():
            if signal.getsignal(number) == usual:
                previous[number] = signal.signal(number, _STOP)
    except ValueError:  # not the main thread, which gets all signals
        pass
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def ending_at_once(message: str) -> Iterator[None]:
    """Within, the first signal ends the process with ``message``: where what it raises would be swallowed."""
    before = _STOP.at_once
    _STOP.at_once = message.encode()
    try:
        yield
    finally:
        _STOP.at_once = before


def end(code: int) -> None:
    """End the process. Threads that are about to end, as one that keeps a palette, may do so; those in a compiled loop,
    which nothing can interrupt, are not waited for."""
    deadline = time.monotonic() + _PATIENCE
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(max(0.0, deadline - time.monotonic()))
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _write(text: bytes) -> None:
    with suppress(OSError):  # nobody may be listening
        os.write(2, text)
