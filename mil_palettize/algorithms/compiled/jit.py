"""How this package compiles its loops: when one is first called, without the GIL, kept on disk where there is a place.

numba, which takes as long to import as everything else together, is imported then too: what makes no palette does
without. It looks at the file of a function alone to see whether what it kept is still right, and not at the files whose
loops and constants went into it. So what is kept lies in a folder named by all files that loops are made of: after a
change to any of them nothing old is found.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

_SOURCES = Path(__file__).parents[1]


def kept_in(sources: Path, chosen: str) -> str | None:
    """The folder of what was compiled of ``sources``: in ``chosen`` (NUMBA_CACHE_DIR) if given, else beside the
    sources, else in the user's cache; None where none of these can be written to."""
    digest = hashlib.sha256()
    for file in sorted(sources.rglob("*.py")):
        digest.update(f"{file.relative_to(sources)};".encode() + file.read_bytes())
    personal = Path(os.environ.get("XDG_CACHE_HOME") or Path(os.path.expanduser("~"), ".cache"), "mil_palettize")
    for place in [Path(chosen)] if chosen else [sources / "__pycache__", personal]:
        folder = place / f"loops-{digest.hexdigest()[:16]}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK | os.X_OK):
            return str(folder)
    return None


class Loop:
    """A function that is compiled on its first call. ``options``: of numba's ``njit``; ``kept``: on disk."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any], *, kept: bool) -> None:
        self.function, self.options, self.kept = function, options, kept
        self.compiled: Any = None
        _WAITING.append(self)

    def __call__(self, *arguments: Any) -> Any:
        if self.compiled is None:
            _build()
        return self.compiled(*arguments)


_WAITING: list[Loop] = []  # loops of modules that are imported, for which numba has nothing yet
_LISTENING: list[Callable[[], object]] = []
_BUILDING = threading.Lock()


def inlined(function: Callable[..., Any]) -> Any:
    """Compile ``function`` for use in other compiled ones only: into them, without a way in from Python."""
    return Loop(function, {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}, kept=False)


def compiled(function: Callable[..., Any]) -> Any:
    """Compile ``function`` on its first call and keep the result in ``kept_in``; without a folder, every process
    compiles anew."""
    return Loop(function, {}, kept=True)


def when_compiling(tell: Callable[[], object]) -> Callable[[], None]:
    """Have ``tell`` called whenever numba begins to compile, which it does not for what it finds on disk; what is
    returned ends that."""
    _LISTENING.append(tell)
    return lambda: _LISTENING.remove(tell)


def _build() -> None:
    """Give every loop that waits what numba makes of it, and the functions of loops that for the loops they call."""
    with _BUILDING:
        _listen()
        made = {loop: _dispatcher(loop) for loop in [*_WAITING]}
        for scope in [loop.function.__globals__ for loop in made]:
            for name, value in scope.items():
                if isinstance(value, Loop):
                    scope[name] = made[value] if value in made else value.compiled or _dispatcher(value)
        for loop, dispatcher in made.items():
            loop.compiled = dispatcher
            _WAITING.remove(loop)


def _dispatcher(loop: Loop) -> Any:
    from numba import config, njit

    options = {"nogil": True, "error_model": "numpy", **loop.options}
    folder = _folder() if loop.kept else None
    if folder is None:
        return njit(**options)(loop.function)
    others = config.CACHE_DIR
    config.CACHE_DIR = folder
    try:
        return njit(cache=True, **options)(loop.function)
    finally:
        config.CACHE_DIR = others


@cache
def _folder() -> str | None:
    from numba import config

    return kept_in(_SOURCES, config.CACHE_DIR)


@cache
def _listen() -> None:
    """Have numba tell whoever listens."""
    from numba.core import event

    class Compiling(event.Listener):
        def on_start(self, event: Any) -> None:
            for tell in [*_LISTENING]:
                tell()

        def on_end(self, event: Any) -> None:
            """Nobody asks when it is done."""

    event.register("numba:compile", Compiling())
