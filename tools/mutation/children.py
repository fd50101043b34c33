"""Work in a forked child, in which everything heavy is loaded already; with limits of processor time and memory."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEMORY = 16 << 30  # bytes of address space
_PATIENCE = 8  # times the processor time that a child may take in all, on a machine that has other things to do
_STEP = 0.05  # seconds between two looks


@dataclass(frozen=True)
class Ending:
    """``value``: what the work gave. ``status``: "done", "timed out" or "crashed". ``told``: the end of its output."""

    value: Any
    status: str
    told: str


def in_child(work: Callable[[], Any], seconds: float) -> Ending:
    """``work()``, which gives something that JSON holds, in a child of at most so many seconds of processor time."""
    with tempfile.TemporaryDirectory() as folder:
        output, result = Path(folder, "output"), Path(folder, "result")
        child = os.fork()
        if child == 0:
            _work(work, seconds, output, result)
        status = _waited(child, seconds * _PATIENCE)
        told = output.read_text(encoding="utf-8", errors="replace")[-3000:] if output.exists() else ""
        if result.exists():
            return Ending(json.loads(result.read_text(encoding="utf-8")), "done", told)
    late = status is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL))
    return Ending(None, "timed out" if late else "crashed", told)


def _work(work: Callable[[], Any], seconds: float, output: Path, result: Path) -> None:
    """In the child, which ends here."""
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()
        limit = max(1, int(seconds))
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 2))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with output.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
        value = work()
        part = result.with_suffix(".part")
        part.write_text(json.dumps(value), encoding="utf-8")
        part.replace(result)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _waited(child: int, patience: float) -> int | None:
    """The status of the child, None where it had to be killed. Time in which this process is stopped does not count."""
    waited, last = 0.0, time.monotonic()
    try:
        while waited < patience:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return status
            now = time.monotonic()
            waited, last = waited + min(now - last, 1.0), now
            time.sleep(_STEP)
        return None
    finally:  # also where this process is told to end; with the processes that tests began
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)
