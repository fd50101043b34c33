"""Parsers that tell every error in one line, and what is near to a mistyped word."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as every other error."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")

    def options(self) -> list[str]:
        """Every option it takes, as it is written."""
        return [name for action in self._actions for name in action.option_strings]


class CommandLine(Parser):
    """The parser of the whole line. What is not known is told with what is near to it."""

    def parse_args(self, args: Sequence[str], namespace: None = None) -> argparse.Namespace:  # type: ignore[override]
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            command = self.commands[options.command]
            advice = [near(one.partition("=")[0], command.options()) for one in unknown if one.startswith("--")]
            command.error(f"unrecognized arguments: {' '.join(unknown)}{next(filter(None, advice), '')}")
        return options

    def _check_value(self, action: argparse.Action, value: str) -> None:
        if action.dest == "command" and value not in self.commands:
            self.error(f"there is no command {value!r}, but {', '.join(self.commands)}{near(value, self.commands)}")
        super()._check_value(action, value)

    @property
    def commands(self) -> dict[str, Parser]:
        choices: Any = next(action.choices for action in self._actions if action.dest == "command")
        return dict(choices)


def near(name: str, names: Iterable[str]) -> str:
    """What an error ends with where ``name`` looks like one of ``names``; "" where it does not."""
    from mil_palettize.request.near_names import near_names

    return near_names(name, names)
