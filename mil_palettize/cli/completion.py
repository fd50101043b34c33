"""Completion of commands, options and paths in shells."""

from __future__ import annotations

import argparse

from mil_palettize.cli.common_arguments import calibrated
from mil_palettize.cli.parsers import CommandLine, Parser
from mil_palettize.cli.values import path
from mil_palettize.errors import ConfigError

SHELLS = ("bash", "zsh", "tcsh")
_FILES = (path, calibrated)  # types of options that take paths


def add_completion(commands: argparse._SubParsersAction[Parser], epilog: str) -> None:
    sub = commands.add_parser("completion", help="a script that completes this command in a shell", epilog=epilog)
    sub.add_argument("shell", choices=SHELLS)


def completion_script(parser: CommandLine, shell: str) -> str:
    """To be sourced by ``shell``. Raises ConfigError without shtab, which makes it."""
    try:
        import shtab
    except ImportError as error:
        raise ConfigError("completion scripts are made by shtab: pip install 'mil-palettize[completion]'") from error
    for command in parser.commands.values():
        for action in command._actions:
            if action.type in _FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell))
