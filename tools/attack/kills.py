"""Runs that are killed at every system call by which a disk changes, and at any other moment; then made again.

A child of its own is killed in place of change number n, one after the other until all have had their turn, in the
middle of the bytes of each write, or at any moment. Where system calls cannot be seen (``tracing.py``), changes are the
functions of Python that make them. Then: a complete package is there, the old one or the new one, the source is what it
was, and the same command ends as if nothing had been, with nothing left beside it.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mil_palettize import decompress_package, palettize_package
from mil_palettize.package.replacement import previous_path
from tools.attack.cases import FIXTURES, Case, Outcome
from tools.attack.tracing import can_trace, traced
from tools.attack.verbs import MODES, Contents, config, contents

# Functions of ``os`` that change a disk, or what survives of it.
CHANGES = (
    "mkdir", "rename", "replace", "unlink", "remove", "rmdir", "fsync", "pwrite", "write", "ftruncate", "chmod", "link",
    "symlink", "truncate",
)  # fmt: skip
LONGEST = 60  # seconds a run may take
TORN = "pwrite"
ANY = 4  # of so many kills, one is at any moment


@dataclass(frozen=True)
class Scenario:
    """``run(source, destination, kept)``; ``before``: a fixture that stands at the destination, or "source"."""

    fixtures: tuple[str, ...]
    run: Callable[[Path, Path, Path], object]
    before: str = ""

    @property
    def in_place(self) -> bool:
        return self.before == "source"


def _palettize(mode: str, **keywords: object) -> Callable[[Path, Path, Path], object]:
    chosen = next(one for one in MODES if one.name == mode)

    def run(source: Path, destination: Path, kept: Path) -> object:
        told = {"select": "weights", **chosen.call, **keywords}
        if told.pop("resume", False):
            told["resume"] = kept
        return palettize_package(source, destination, config(chosen), workers=1, **told)

    return run


def _decompress(source: Path, destination: Path, kept: Path) -> object:
    return decompress_package(source, destination, workers=1, overwrite=True, verify=True)


SCENARIOS = {
    "kill palettize": Scenario(("shared_ios16", "conv_fp16_ios16", "pipeline_ios17"), _palettize("kmeans")),
    "kill overwrite": Scenario(
        ("shared_ios16", "multifunction_ios18"), _palettize("kmeans", overwrite=True, verify=True), "extras_ios16"
    ),
    "kill in place": Scenario(("shared_ios16", "joint_ios18"), _palettize("kmeans", overwrite=True), "source"),
    "kill redo": Scenario(("palettized_ios16", "palettized_grouped_ios18"), _palettize("redo", verify=True)),
    "kill redo in place": Scenario(("palettized_ios16",), _palettize("redo", overwrite=True), "source"),
    "kill decompress": Scenario(("palettized_ios16", "quantized_sparse_ios16"), _decompress),
    "kill decompress in place": Scenario(("palettized_grouped_ios18",), _decompress, "source"),
    "kill resume": Scenario(("shared_ios16", "conv_fp16_ios18"), _palettize("kmeans", resume=True)),
}


@dataclass
class _Place:
    """Where a run happens: the package, the destination, what is kept, the temporary folder."""

    folder: Path
    scenario: Scenario
    fixture: str

    def __post_init__(self) -> None:
        self.source = self.folder / "in.mlpackage"
        self.destination = self.source if self.scenario.in_place else self.folder / "out.mlpackage"
        self.kept, self.temporary = self.folder / "kept", self.folder / "temporary"

    def set_up(self) -> None:
        shutil.copytree(FIXTURES / f"{self.fixture}.mlpackage", self.source)
        if self.scenario.before and not self.scenario.in_place:
            shutil.copytree(FIXTURES / f"{self.scenario.before}.mlpackage", self.destination)
        self.temporary.mkdir()

    def run(self) -> None:
        tempfile.tempdir = str(self.temporary)
        try:
            self.scenario.run(self.source, self.destination, self.kept)
        finally:
            tempfile.tempdir = None

    def complete(self) -> Path:
        """The package that a reader would take: the destination, or what stands for it until the next run."""
        return self.destination if self.destination.exists() else previous_path(self.destination)


@dataclass(frozen=True)
class _Whole:
    """What an uninterrupted run does. ``places``: where it can be killed, each a number of a "call" (system call), an
    "operation" (Python's) or a "torn" write; how many ``seconds`` it takes; and what it leaves."""

    places: tuple[tuple[str, int], ...]
    seconds: float
    written: Contents
    names: tuple[str, ...]


@cache
def _whole(name: str, fixture: str) -> _Whole:
    with tempfile.TemporaryDirectory() as folder:
        place = _Place(Path(folder), SCENARIOS[name], fixture)
        place.set_up()
        counted = _Counted(-1, torn=False)
        started = time.perf_counter()
        with counted:
            place.run()
        seconds = time.perf_counter() - started
        names = tuple(sorted(path.name for path in Path(folder).iterdir()))
        torn = [("torn", number) for number, what in enumerate(counted.operations) if what == TORN]
        return _Whole((*_changes(name, fixture, counted), *torn), seconds, contents(place.destination), names)


def _changes(name: str, fixture: str, counted: _Counted) -> list[tuple[str, int]]:
    """Every change of a run, as system calls where these can be seen."""
    if not can_trace():
        return [("operation", number) for number in range(len(counted.operations))]
    with tempfile.TemporaryDirectory() as folder:
        place = _Place(Path(folder), SCENARIOS[name], fixture)
        place.set_up()
        return [("call", number) for number in range(len(traced(place.run, -1).calls))]


class _Counted:
    """Counts changes, and kills the process in place of number ``fatal`` (-1: never)."""

    def __init__(self, fatal: int, *, torn: bool) -> None:
        self.fatal, self.torn = fatal, torn
        self.operations: list[str] = []
        self.real = {name: getattr(os, name) for name in CHANGES}
        self.open = os.open

    def _due(self, name: str) -> bool:
        self.operations.append(name)
        return len(self.operations) - 1 == self.fatal

    def __enter__(self) -> _Counted:
        for name in CHANGES:
            setattr(os, name, self._wrapped(name))
        os.open = self._opened
        return self

    def __exit__(self, *exception: object) -> None:
        for name, function in self.real.items():
            setattr(os, name, function)
        os.open = self.open

    def _wrapped(self, name: str) -> Callable[..., object]:
        real = self.real[name]

        def counted(*arguments: object, **keywords: object) -> object:
            if self._due(name):
                if self.torn and name == TORN:
                    fd, data, offset = arguments
                    real(fd, data[: len(data) // 2], offset)  # type: ignore[index]
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **keywords)

        return counted

    def _opened(self, path: object, flags: int, *arguments: object, **keywords: object) -> int:
        if flags & os.O_CREAT and self._due("open"):
            os.kill(os.getpid(), signal.SIGKILL)
        return self.open(path, flags, *arguments, **keywords)  # type: ignore[arg-type]


def play_kill(case: Case, folder: Path) -> Outcome:
    """Number n: fixture n mod their count; then the next place, or (every fourth) any moment."""
    scenario = SCENARIOS[case.family]
    fixture = scenario.fixtures[case.number % len(scenario.fixtures)]
    whole = _whole(case.family, fixture)
    place = _Place(folder, scenario, fixture)
    place.set_up()
    turn = case.number // len(scenario.fixtures)
    kind, number = whole.places[(turn - turn // ANY) % len(whole.places)]
    if turn % ANY == ANY - 1:
        status = _killed_after(place, case.random.random() * whole.seconds)
    elif kind == "call":
        status = traced(lambda: _alone(place.run), number).status
    else:
        status = _killed_at(place, number, torn=kind == "torn")
    outcome = Outcome(succeeded=int(status == 0), refused=int(status == -signal.SIGKILL))
    if status not in (0, -signal.SIGKILL):
        outcome.violations.append(f"the run to be killed ended with {status}")
    outcome.violations += _after_death(place, whole)
    return outcome


def _alone(run: Callable[[], object]) -> None:
    """In a child: with a limit of time, and nothing said."""
    signal.alarm(LONGEST)
    with open(os.devnull, "w") as nowhere:
        sys.stderr = nowhere
        run()


def _killed_after(place: _Place, seconds: float) -> int:
    child = _child(lambda: _alone(place.run))
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _killed_at(place: _Place, number: int, *, torn: bool) -> int:
    """At operation ``number`` of Python's."""

    def run() -> None:
        with _Counted(number, torn=torn):
            place.run()

    return os.waitstatus_to_exitcode(os.waitpid(_child(lambda: _alone(run)), 0)[1])


def _child(run: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            run()
            os._exit(0)
        finally:
            os._exit(1)
    return child


def _after_death(place: _Place, whole: _Whole) -> list[str]:
    """What is wrong after a kill, and after the run that follows."""
    sound = contents(FIXTURES / f"{place.fixture}.mlpackage")
    found: list[str] = []
    if not place.scenario.in_place and contents(place.source) != sound:
        found.append("the source has changed")
    complete = contents(place.complete()) if place.complete().exists() else None
    old = sound if place.scenario.in_place else None
    if place.scenario.before and not place.scenario.in_place:
        old = contents(FIXTURES / f"{place.scenario.before}.mlpackage")
    if complete not in (old, whole.written):
        found.append("neither the old package nor the new one is complete")
    done = complete == whole.written
    if done and not place.scenario.in_place and not place.scenario.before:
        shutil.rmtree(place.destination)
    try:
        place.run()
    except BaseException as error:
        return [*found, f"the next run ends with {type(error).__name__}: {str(error)[:300]}"]
    if contents(place.destination) != whole.written and not (done and place.scenario.in_place):
        found.append("the next run writes something else")
    left = sorted({path.name for path in place.folder.iterdir()} - set(whole.names))
    if left:
        found.append(f"the next run leaves {left}")
    if any(place.temporary.iterdir()):
        found.append(f"the next run leaves {sorted(p.name for p in place.temporary.iterdir())} in the temporary folder")
    partial = [path.name for path in place.kept.rglob(".*")] if place.kept.exists() else []
    if partial:
        found.append(f"the next run leaves {partial} in the folder to resume from")
    return found
