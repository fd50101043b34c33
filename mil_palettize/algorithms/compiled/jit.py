"""How this package compiles its loops: without the GIL, kept on disk where there is a place for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def inlined(function: Callable[..., Any]) -> Any:
    """Compile ``function`` for use in other compiled ones only: into them, without a way in from Python."""
    return njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)


def compiled(function: Callable[..., Any]) -> Any:
    """Compile ``function`` on its first call and cache the result beside the source, or where ``NUMBA_CACHE_DIR`` says.

    A read-only installation without a home folder has nowhere to cache: then every process compiles anew.
    """
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:
        return njit(**options)(function)
