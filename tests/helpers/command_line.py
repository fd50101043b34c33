"""The command as tests give it, and the names of its packages."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from mil_palettize.cli import main as cli

Run = Callable[..., tuple[int, str, str]]
COMMAND = (sys.executable, "-m", "mil_palettize")
IN, OUT = "in.mlpackage", "out.mlpackage"
PALETTIZE = ("palettize", IN, OUT)
CLI_ERROR = "mil-palettize: error: "


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(cli.__file__).resolve().parents[2]), "TERM": "xterm"}
