"""Modules loaded when a command needs them, and errors told on standard error."""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib import import_module
from types import ModuleType

from mil_palettize.cli.colours import coloured, has_colours
from mil_palettize.cli.logs import json_error
from mil_palettize.cli.signals import ending_at_once
from mil_palettize.text import printable


def load(name: str) -> ModuleType:
    """Import a module of this package. Meanwhile an interrupt ends the process at once: what torch and coremltools
    import swallows ``KeyboardInterrupt``, or is left half imported and waits for itself."""
    with ending_at_once(line("interrupted; nothing was written")):
        return import_module(f"mil_palettize.{name}")


def fail(message: str, code: int, *, as_json: bool) -> int:
    """Tell an error, and return its exit code. ``as_json``: as the log does."""
    with suppress(OSError, ValueError, RuntimeError):  # nobody may be listening
        told = json_error(message) if as_json else line(message)
        print(coloured(told) if has_colours(sys.stderr) and not as_json else told, end="", file=sys.stderr, flush=True)
    return code


def line(message: str) -> str:
    """An error as standard error shows it."""
    return f"mil-palettize: error: {printable(' '.join(message.splitlines()))}\n"
