"""One mutant before the tests that concern it."""

from __future__ import annotations

import logging
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tools.mutation.children import in_child
from tools.mutation.mutant import Mutant
from tools.mutation.reach import Reach, Reached
from tools.mutation.tree import Tree

KILLED, TIMED_OUT, SURVIVED, UNREACHED = "killed", "timed out", "survived", "no test"
_SLOWER = 4  # times as long as without a mutant
_COMPILING = 90  # seconds of processor time besides, to import and to compile loops


@dataclass(frozen=True)
class Verdict:
    """``outcome``: one of those above. ``by``: the test that failed. ``tests``: how many were to be run; ``of``: how
    many concern the mutant."""

    outcome: str
    by: str
    tests: int
    of: int

    def __str__(self) -> str:
        if self.outcome == KILLED:
            return f"killed by {self.by}"
        part = f"{self.tests} tests" if self.tests == self.of else f"{self.tests} of {self.of} tests"
        return self.outcome if self.outcome == UNREACHED else f"{self.outcome} ({part})"


def concerned(tree: Tree, reach: Reach, mutant: Mutant) -> list[str]:
    """The tests that run what the mutant changes, or whose file names its module in imports (they may run it in other
    processes); files that are quickest first, and their tests so too.

    Nobody sees when a compiled loop is run: of these it is the tests that run anything that is made of the loop's file.
    """
    files, function = {mutant.file}, f"{mutant.file} {mutant.function}" if mutant.function else ""
    if tree.has_loops(mutant.file):
        files, function = {*tree.importers(mutant.file)}, ""
    found: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for name, test in reach.items():
        file = name.partition("::")[0]
        if _runs(test, files, function) or mutant.file in tree.imports(file):
            found[file].append((test.seconds, name))
    quickest = sorted(found.values(), key=lambda tests: sum(seconds for seconds, _ in tests))
    return [name for tests in quickest for _, name in sorted(tests)]


def _runs(test: Reached, files: set[str], function: str) -> bool:
    return function in test.functions if function else bool(files & test.files)


def tried(tree: Tree, reach: Reach, sound: Path, mutant: Mutant, most: float) -> Verdict:
    """``sound``: the folder of the loops of the sources as they are. ``most``: seconds of tests."""
    every = concerned(tree, reach, mutant)
    names = _affordable(reach, every, most)
    if not names:
        return Verdict(UNREACHED, "", 0, 0)

    def work() -> str:
        sys.dont_write_bytecode = True
        tree.enter()
        judge = _Judge(names)
        files = dict.fromkeys(name.partition("::")[0] for name in names)
        with tree.loops_of(mutant, sound):
            code = pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--tb=line", *files], plugins=[judge])
        return judge.failed or ("" if code == 0 else f"pytest's exit code {int(code)}")

    with tree.holding(mutant):
        seconds = _COMPILING + _SLOWER * sum(reach[name].seconds for name in names)
        ending = in_child(work, seconds)
    tree.forget_loops(sound)
    if ending.status == "timed out":
        return Verdict(TIMED_OUT, "", len(names), len(every))
    by = "a crash" if ending.status == "crashed" else ending.value
    return Verdict(KILLED if by else SURVIVED, by, len(names), len(every))


def _affordable(reach: Reach, names: Sequence[str], most: float) -> list[str]:
    """The first that take no longer than ``most`` together; one in any case."""
    found, left = [], most
    for name in names:
        if found and reach[name].seconds > left:
            continue
        found.append(name)
        left -= reach[name].seconds
    return found


class _Judge:
    """A plugin of pytest: runs chosen tests in a given order; ``failed``: the first that does."""

    def __init__(self, names: Sequence[str]) -> None:
        self._order = {name: place for place, name in enumerate(names)}
        self.failed = ""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((item for item in items if item.nodeid in self._order), key=lambda i: self._order[i.nodeid])

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed = self.failed or f"{report.nodeid} (it cannot be imported)"

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed = self.failed or report.nodeid


def load_heavy() -> None:
    """What children would import each by itself; nothing of the library."""
    logging.getLogger("coremltools").setLevel(logging.CRITICAL)
    import coremltools.converters
    import coremltools.optimize.coreml  # noqa: F401
    import hypothesis
    import numba  # noqa: F401

    hypothesis.settings.register_profile("mutation", deadline=None, derandomize=True, database=None)
    hypothesis.settings.load_profile("mutation")
