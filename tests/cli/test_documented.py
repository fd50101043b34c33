"""README and ``--help`` say what the command line does: every option, every exit code."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from mil_palettize.cli import main as cli
from mil_palettize.cli.arguments import build_parser

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
PARSER = build_parser(cli.COMMANDS)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CODES = {0, 1, 2, 70, *(code for _, code in cli.EXIT_CODES), *(128 + number for number in SIGNALS)}


def test_exit_codes() -> None:
    table = README.partition("| exit code |")[2].partition("\n\n")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if re.match(r"\| \d", row)]
    assert {int(code) for row in rows for code in re.findall(r"\d+", row)} == CODES
    assert {int(code) for code in re.findall(r"\b\d+\b", PARSER.epilog or "")} == CODES


@pytest.mark.parametrize("command", ["palettize", "decompress", "inspect", "diff", "run", "compare"])
def test_options_of(command: str) -> None:
    options = [name for name in PARSER.commands[command].options() if name.startswith("--") and name != "--help"]
    for option in options:
        assert f"`{option}" in README or f" {option} " in README, option
