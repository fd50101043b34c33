"""The guide and ``--help`` say what the command line does: every option, every exit code."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from mil_palettize.cli import main as cli
from mil_palettize.cli.arguments import build_parser
from mil_palettize.doors.graph_passes import palettize_weights

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = {page.name: page.read_text(encoding="utf-8") for page in sorted(DOCS.glob("*.md"))}
COMMANDS = PAGES["commands.md"]
PARSER = build_parser(cli.COMMANDS)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CODES = {0, 1, 2, 70, *(code for _, code in cli.EXIT_CODES), *(128 + number for number in SIGNALS)}


def test_exit_codes() -> None:
    table = COMMANDS.partition("| exit code |")[2].partition("\n\n")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if re.match(r"\| \d", row)]
    assert {int(code) for row in rows for code in re.findall(r"\d+", row)} == CODES
    assert {int(code) for code in re.findall(r"\b\d+\b", PARSER.epilog or "")} == CODES


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_options_of(command: str) -> None:
    options = [name for name in PARSER.commands[command].options() if name.startswith("--") and name != "--help"]
    for option in options:
        assert any(f"`{option}" in page or f" {option} " in page for page in PAGES.values()), option


def test_the_table_of_palettize_has_every_option() -> None:
    table = COMMANDS.partition("`palettize` takes:")[2].partition("| exit code |")[0]
    options = {name for name in PARSER.commands["palettize"].options() if name.startswith("--")} - {"--help"}
    assert set(re.findall(r"`(--[a-z-]+)", table)) == options


def test_options_of_the_pass_are_those_that_the_page_names() -> None:
    named = PAGES["doors.md"].partition("registers the passes, options are ")[2].partition(". Names")[0]
    setters = {n for n, value in vars(palettize_weights).items() if isinstance(value, property) and value.fset}
    assert set(re.findall(r"`(\w+)`", named)) == setters
