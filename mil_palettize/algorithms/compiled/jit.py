"""How this package compiles its loops: without the GIL, kept on disk where there is a place for it.

numba looks at the file of a function alone to see whether what it kept is still right, and not at the files whose loops
and constants went into it. So what is kept lies in a folder named by all files that loops are made of: after a change
to any of them nothing old is found.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import config, njit

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


_FOLDER = kept_in(_SOURCES, config.CACHE_DIR)


def inlined(function: Callable[..., Any]) -> Any:
    """Compile ``function`` for use in other compiled ones only: into them, without a way in from Python."""
    return njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)


def compiled(function: Callable[..., Any]) -> Any:
    """Compile ``function`` on its first call and keep the result in ``kept_in``; without a folder, every process
    compiles anew."""
    options = {"nogil": True, "error_model": "numpy"}
    if _FOLDER is None:
        return njit(**options)(function)
    others = config.CACHE_DIR
    config.CACHE_DIR = _FOLDER
    try:
        return njit(cache=True, **options)(function)
    finally:
        config.CACHE_DIR = others
