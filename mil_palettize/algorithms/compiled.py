"""How this package compiles its loops: without the GIL, kept on disk where there is a place for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., Any]) -> Any:
    """Compile ``function`` on its first call and cache the result beside the source, or where ``NUMBA_CACHE_DIR`` says.

    A read-only installation without a home folder has nowhere to cache: then every process compiles anew.
    """
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:
        return njit(**options)(function)
