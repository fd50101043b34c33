"""The copy of the project in which mutants live, and the compiled loops that they need not compile again."""

from __future__ import annotations

import ast
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tools.mutation.children import in_child
from tools.mutation.mutant import Mutant

_LEFT_OUT = (".git", ".venv*", "__pycache__", ".*_cache", ".hypothesis", "build", "dist", "*.egg-info")
_LIBRARY = "mil_palettize"
_JIT = "mil_palettize/algorithms/compiled/jit.py"


class Tree:
    """``root``: of the copy. Loops are kept beside it."""

    def __init__(self, project: Path, folder: Path) -> None:
        self.project, self.root, self.loops = project, folder / "tree", folder / "loops"
        if self.root.exists():  # of an earlier run, whose loops are of use
            shutil.rmtree(self.root)
        shutil.copytree(project, self.root, ignore=shutil.ignore_patterns(*_LEFT_OUT))
        self._clock = 0

    def source(self, file: str) -> bytes:
        return (self.root / file).read_bytes()

    def files(self, folders: list[str]) -> list[str]:
        """Those of the library that lie in ``folders``, or are named themselves."""
        found = {
            path.relative_to(self.root).as_posix()
            for folder in folders
            for path in ([self.root / folder] if folder.endswith(".py") else (self.root / folder).rglob("*.py"))
        }
        return sorted(found)

    @contextmanager
    def holding(self, mutant: Mutant) -> Iterator[None]:
        """The mutant instead of what it is made of, under a time of its own: else Python would take what it compiled
        of another of the same size and second."""
        path = self.root / mutant.file
        source, was = path.read_bytes(), path.stat()
        self._clock += 1
        path.write_bytes(mutant.applied(source))
        os.utime(path, (was.st_atime, was.st_mtime + 10 * self._clock))
        try:
            yield
        finally:
            path.write_bytes(source)
            os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))

    def enter(self) -> None:
        """In a child: be in the copy, and import from there."""
        os.chdir(self.root)
        outside = str(self.project)
        sys.path[:] = [str(self.root), *(path for path in sys.path if path and os.path.abspath(path) != outside)]
        os.environ["PYTHONPATH"] = str(self.root)
        os.environ["NUMBA_CACHE_DIR"] = str(self.loops)
        if "numba" in sys.modules:  # which has looked already
            sys.modules["numba"].config.CACHE_DIR = str(self.loops)

    def sound_loops(self) -> Path:
        """The folder of the loops of the sources as they are, which must not be mutated now."""

        def work() -> str:
            self.enter()
            return str(self._loops_now())

        return Path(in_child(work, 60).value)

    def _loops_now(self) -> Path:
        from mil_palettize.algorithms.compiled.jit import kept_in

        folder = kept_in(self.root / _LIBRARY / "algorithms", str(self.loops))
        assert folder is not None
        return Path(folder)

    @contextmanager
    def loops_of(self, mutant: Mutant, sound: Path) -> Iterator[None]:
        """In a child that entered: with the loops of ``sound`` that are not made of the mutated file. Such loops are in
        there too afterwards, where they had to be compiled."""
        folder = self._loops_now()
        if folder == sound:
            yield
            return
        self._copy_loops(sound, folder, mutant)
        try:
            yield
        finally:
            self._copy_loops(folder, sound, mutant)

    def forget_loops(self, sound: Path) -> None:
        """All but those of ``sound``."""
        for folder in self.loops.iterdir() if self.loops.exists() else ():
            if folder != sound:
                shutil.rmtree(folder)

    def _copy_loops(self, source: Path, target: Path, mutant: Mutant) -> None:
        """Those that are not made of the mutated file, and are not there yet."""
        made_of_it = {(Path(file).parent.name, Path(file).stem) for file in self.importers(mutant.file)}
        for kept in source.rglob("*.nb?"):
            module = (kept.parent.name.rpartition("_")[0], kept.name.partition(".")[0])
            copy = target / kept.relative_to(source)
            if module not in made_of_it and not (copy.exists() and copy.stat().st_size >= kept.stat().st_size):
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(kept, copy)

    @cache  # noqa: B019 -- one tree lives as long as the process
    def imports(self, file: str) -> frozenset[str]:
        """The files of the library that a file, of the library or of the tests, names in its imports."""
        found = set()
        for node in ast.walk(ast.parse(self.source(file))):
            names: list[str] = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            paths = (name.replace(".", "/") + ".py" for name in names if name.partition(".")[0] == _LIBRARY)
            found.update(path for path in paths if (self.root / path).is_file())
        return frozenset(found)

    @cache  # noqa: B019
    def importers(self, file: str) -> frozenset[str]:
        """The file itself and those of ``algorithms`` that import it, also by way of others; compiled loops are made
        of what is in them."""
        if file == _JIT:
            return frozenset(self.files(["mil_palettize/algorithms"]))
        found, waiting = {file}, [file]
        while waiting:
            wanted = waiting.pop()
            for other in self.files(["mil_palettize/algorithms"]):
                if other not in found and wanted in self.imports(other):
                    found.add(other)
                    waiting.append(other)
        return frozenset(found)

    @cache  # noqa: B019
    def has_loops(self, file: str) -> bool:
        return "algorithms.compiled.jit import" in self.source(file).decode()
