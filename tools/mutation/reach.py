"""Which functions of the library each test runs, and how much processor time it takes where loops are compiled."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sys
import threading
from collections.abc import Generator, Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from numba.core import event

from tools.mutation.children import in_child
from tools.mutation.tree import Tree

_MOST = 900  # seconds of processor time for one file of tests


class ReachError(Exception):
    """Tests that fail, or cannot be run, without any mutant."""


@dataclass(frozen=True)
class Reached:
    """What a test runs: ``functions``: "file qualified_name"; in ``seconds`` of processor time, but for compiling."""

    seconds: float
    functions: frozenset[str]

    @property
    def files(self) -> set[str]:
        return {function.partition(" ")[0] for function in self.functions}


Reach = dict[str, Reached]  # by the name of the test, "tests/…/test_file.py::test"


def reach_of(tree: Tree, files: Iterable[str], kept: Path) -> Reach:
    """Of all tests in ``files``. What was found of a file of tests, where it and the library are as they were, is taken
    from ``kept``, where all is put that is found now; the others are run. Raises ``ReachError``."""
    known = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    reach: Reach = {}
    library = tree.files(["mil_palettize"])
    for file in files:
        digest = _digest(tree, [*library, file])
        if known.get(file, {}).get("digest") != digest:
            known[file] = {"digest": digest, "tests": traced(tree, file)}
            kept.write_text(json.dumps(known), encoding="utf-8")
            print(f"traced {file}", flush=True)
        tests = known[file]["tests"]
        reach |= {name: Reached(one["seconds"], frozenset(one["functions"])) for name, one in tests.items()}
    return reach


def _digest(tree: Tree, files: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(tree.source(file))
    return digest.hexdigest()[:16]


def traced(tree: Tree, file: str) -> dict[str, dict[str, Any]]:
    """``Reach`` of one file of tests, as JSON holds it. Raises ``ReachError``."""

    def work() -> dict[str, Any]:
        tree.enter()
        recorder = _Recorder(tree.root)
        code = pytest.main(["-q", "-n", "0", "-p", "no:cacheprovider", file], plugins=[recorder])
        found = {
            name: {**asdict(reached), "functions": sorted(reached.functions)}
            for name, reached in recorder.reach.items()
        }
        return {"code": int(code), "tests": found}

    ending = in_child(work, _MOST)
    if ending.status != "done" or ending.value["code"] not in (0, 5):  # 5: all are slow or were skipped
        raise ReachError(f"{file} fails without any mutant ({ending.status}):\n{ending.told}")
    return ending.value["tests"]


class _Recorder:
    """A plugin of pytest."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.reach: Reach = {}
        self._codes: set[Any] = set()
        self._compiling = _Compiling()
        self._failed: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        self._codes.clear()
        started, compiling = _processor_time(), self._compiling.seconds
        threading.settrace(self._called)
        sys.settrace(self._called)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            threading.settrace(None)
            if item.nodeid not in self._failed:
                functions = frozenset(name for code in [*self._codes] if (name := self._name(code)))
                seconds = _processor_time() - started - (self._compiling.seconds - compiling)
                self.reach[item.nodeid] = Reached(round(max(seconds, 0.0), 3), functions)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.passed:  # skipped: it judges nothing
            self._failed.add(report.nodeid)

    def _called(self, frame: Any, event: str, argument: object) -> None:
        """Hears of calls; giving None, of nothing that happens inside of them."""
        self._codes.add(frame.f_code)

    def _name(self, code: Any) -> str:
        file = Path(code.co_filename)
        if not file.is_relative_to(self.root / "mil_palettize"):
            return ""
        function = _functions(file).get(code.co_firstlineno, "")
        return f"{file.relative_to(self.root).as_posix()} {function}"


class _Compiling(event.Listener):
    """``seconds`` that numba has taken."""

    def __init__(self) -> None:
        self.seconds, self._depth, self._since = 0.0, 0, 0.0
        event.register("numba:compile", self)

    def on_start(self, event: Any) -> None:
        if self._depth == 0:
            self._since = _processor_time()
        self._depth += 1

    def on_end(self, event: Any) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.seconds += _processor_time() - self._since


def _processor_time() -> float:
    """Of this process and of those it has waited for."""
    return sum(os.times()[:4])


@cache
def _functions(file: Path) -> dict[int, str]:
    """Line -> the innermost function it is in."""
    found: dict[int, str] = {}

    def walk(node: ast.AST, scope: list[str]) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef):
                name = ".".join([*scope, child.name])
                first = min([child.lineno, *(one.lineno for one in child.decorator_list)])
                found.update(dict.fromkeys(range(first, (child.end_lineno or first) + 1), name))
                walk(child, [*scope, child.name, "<locals>"])
            else:
                walk(child, [*scope, child.name] if isinstance(child, ast.ClassDef) else scope)

    walk(ast.parse(file.read_bytes()), [])
    return found
