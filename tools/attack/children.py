"""Cases played in children that are forked from a process in which everything is loaded and compiled.

A child plays a batch and says before each case that it begins, so that a crash, a hang or a lack of memory is put down
to the case that it was about. Children have limits: of address space beyond what they begin with, of processor time
and of time for each case.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path

from tools.attack.cases import Case, Outcome, Play

BATCH = 40
MEMORY = 1 << 30  # bytes more than a child begins with
SECONDS = 25  # of processor time
PATIENCE = 600  # seconds in all, on a machine that has other things to do
Done = Callable[[Case, Outcome], None]


@dataclass
class _Child:
    """``waiting``: cases it has not begun; ``current``: the one it is about."""

    pid: int
    pipe: int
    folder: Path
    waiting: deque[Case]
    current: Case | None = None
    since: float = 0.0
    pending: bytes = b""


@dataclass
class Pool:
    """``jobs`` children at a time. ``plays``: family -> how its cases are played."""

    plays: dict[str, Play]
    jobs: int
    done: Done
    _children: list[_Child] = field(default_factory=list)

    def play(self, cases: Iterator[Case], until: float) -> None:
        """Play ``cases`` until there are no more, or no time is left."""
        again: deque[Case] = deque()
        while True:
            while len(self._children) < self.jobs and time.monotonic() < until:
                batch = [again.popleft() for _ in range(min(len(again), BATCH))]
                batch += itertools.islice(cases, BATCH - len(batch))
                if not batch:
                    break
                self._children.append(self._begin(batch))
            if not self._children:
                return
            again += self._listen(until)

    def _begin(self, batch: list[Case]) -> _Child:
        mine, theirs = os.pipe()
        folder = Path(tempfile.mkdtemp(prefix="attack-"))
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            os.close(mine)
            with suppress(BaseException):
                _play_batch(self.plays, batch, folder, theirs)
            os._exit(0)
        os.close(theirs)
        return _Child(pid, mine, folder, deque(batch), since=time.monotonic())

    def _listen(self, until: float) -> list[Case]:
        """Take what children say; gives the cases of those that ended before their time."""
        ready = wait([child.pipe for child in self._children], 1.0)
        left: list[Case] = []
        for child in list(self._children):
            if child.pipe in ready:
                data = os.read(child.pipe, 1 << 16)
                if data:
                    self._take(child, data)
                    continue
                left += self._end(child, "")
            elif time.monotonic() - child.since > PATIENCE and not _waits_for_a_processor(child.pid):
                os.kill(child.pid, signal.SIGKILL)
                left += self._end(child, f"takes more than {PATIENCE} seconds")
            elif time.monotonic() > until:  # what it is about is not counted
                os.kill(child.pid, signal.SIGKILL)
                child.current = None
                self._end(child, "")
        return left

    def _take(self, child: _Child, data: bytes) -> None:
        *lines, child.pending = (child.pending + data).split(b"\n")
        for line in lines:
            told = json.loads(line)
            child.since = time.monotonic()
            if "begins" in told:
                child.current = child.waiting.popleft()
            elif child.current is not None:
                self.done(child.current, Outcome(**told))
                child.current = None

    def _end(self, child: _Child, why: str) -> list[Case]:
        self._children.remove(child)
        os.close(child.pipe)
        status = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
        shutil.rmtree(child.folder, ignore_errors=True)
        if child.current is not None:
            said = why or (f"takes more than {SECONDS} seconds" if status == -signal.SIGPROF else f"dies with {status}")
            self.done(child.current, Outcome(violations=[f"the process {said}"]))
        return list(child.waiting)


def _waits_for_a_processor(pid: int) -> bool:
    """Whether a process would go on if others let it; False where that cannot be told."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state == "R"


def _play_batch(plays: dict[str, Play], batch: list[Case], folder: Path, pipe: int) -> None:
    _limit()
    tempfile.tempdir = None
    os.environ["TMPDIR"] = str(folder)
    for number, case in enumerate(batch):
        os.write(pipe, b'{"begins": %d}\n' % number)
        place = folder / str(number)
        place.mkdir()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            outcome = plays[case.family](case, place)
        except BaseException as error:
            outcome = Outcome(violations=[f"the attack itself fails: {type(error).__name__}: {error}"[:500]])
        signal.setitimer(signal.ITIMER_PROF, 0)
        os.write(pipe, json.dumps(outcome.__dict__).encode() + b"\n")
        shutil.rmtree(place, ignore_errors=True)


def _limit() -> None:
    """Memory, where that can be had; no core files; SIGPROF ends the process."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    statm = Path("/proc/self/statm")
    if statm.exists():
        pages = int(statm.read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.dup2(nowhere, 1)
