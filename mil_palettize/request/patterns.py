"""Names that are regular expressions: ``re:PATTERN`` stands for every constant or op whose whole name it matches."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from mil_palettize.errors import ConfigError

if sys.version_info >= (3, 11):
    from re import _parser  # type: ignore[attr-defined]
else:
    import sre_parse as _parser

PATTERN = "re:"
_MOST_REPEATS = 6
_REPEATS = ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")


def check_pattern(entry: str, where: str) -> None:
    """Raise ConfigError for a ``re:`` name that is no regular expression, and for one that may take a time without
    end: that repeats what repeats, repeats many things, or refers back to a group."""
    try:
        pattern_of(entry)
        depths = list(_repeats(_parser.parse(entry.removeprefix(PATTERN)), 0))
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigError(f"{where}[{entry!r}] is no regular expression: {error}") from error
    if len(depths) > _MOST_REPEATS or max(depths, default=0) > 1:
        raise ConfigError(
            f"{where}[{entry!r}] may take a time without end: use at most {_MOST_REPEATS} of *, + and {{}}, none "
            "within another, and no references back"
        )


def _repeats(parsed: Any, depth: int) -> Iterator[int]:
    """Of every repeat, in how many it stands, itself counted; a reference back counts as one too deep."""
    for kind, argument in parsed:
        if str(kind).startswith("GROUPREF"):
            yield 2
        deeper = depth
        if str(kind) in _REPEATS and argument[1] > 1:
            deeper += 1
            yield deeper
        for part in _parts(argument):
            yield from _repeats(part, deeper)


def _parts(argument: Any) -> Iterator[Any]:
    """Patterns within the argument of a node."""
    if isinstance(argument, _parser.SubPattern):
        yield argument
    elif isinstance(argument, tuple | list):
        for one in argument:
            yield from _parts(one)


@lru_cache
def pattern_of(entry: str) -> re.Pattern[str]:
    """Of a ``re:`` name."""
    return re.compile(entry.removeprefix(PATTERN))
