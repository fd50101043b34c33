"""Regular expressions that are matched with whole names in a time without surprises.

Python's ``re`` tries one way after the other, which may take years where an expression repeats what may be read in
several ways. Here all places of a name that can be reached are followed at once, as bits of a number: an expression of
``m`` parts and a name of ``n`` characters take about ``m * n`` steps, ``m * n**2`` with looks ahead. What is read, and
single characters, are ``re``'s own. Back references are the one thing that cannot be done so.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from itertools import groupby
from typing import Any

if sys.version_info >= (3, 11):
    from re import _compiler, _parser  # type: ignore[attr-defined]
else:
    import sre_compile as _compiler
    import sre_parse as _parser

# From the places that were reached, of a name, to those that are reached then; place i is bit i.
_Step = Callable[[str, int], int]
_CHARACTERS = ("LITERAL", "NOT_LITERAL", "ANY", "IN")
_KINDS_OF_TEXT = re.ASCII | re.LOCALE | re.UNICODE


class NameExpression:
    """Raises ``re.error`` for text that is no expression, and for one that refers back to a group or never gives back
    what it took (``(?>...)``, ``a*+``)."""

    def __init__(self, text: str) -> None:
        parsed = _parser.parse(text)
        self._step = _sequence(parsed, parsed.state.flags)

    def fullmatch(self, name: str) -> bool:
        """Whether it matches the whole of ``name``."""
        return bool(self._step(name, 1) >> len(name))


def _sequence(parsed: Any, flags: int) -> _Step:
    steps = []
    for literal, parts in groupby(parsed, lambda part: str(part[0]) == "LITERAL" and not flags & re.IGNORECASE):
        if literal:
            steps.append(_text("".join(chr(code) for _, code in parts)))
        else:
            steps += [_step(kind, argument, flags) for kind, argument in parts]

    def follow(name: str, places: int) -> int:
        for step in steps:
            if not places:
                return 0
            places = step(name, places)
        return places

    return follow


def _step(kind: Any, argument: Any, flags: int) -> _Step:
    word = str(kind)
    if word in _CHARACTERS:
        return _taken(_characters(kind, argument, flags), 1)
    if word == "AT":
        return _place(kind, argument, flags)
    if word == "BRANCH":
        return _branch([_sequence(one, flags) for one in argument[1]])
    if word == "SUBPATTERN":
        _, added, removed, inner = argument
        kept = flags & ~_KINDS_OF_TEXT if added & _KINDS_OF_TEXT else flags
        return _sequence(inner, (kept | added) & ~removed)
    if word in ("MAX_REPEAT", "MIN_REPEAT"):
        least, most, inner = argument
        if least == 0 and most == _parser.MAXREPEAT and len(inner) == 1 and str(inner[0][0]) in _CHARACTERS:
            return _any_number(_characters(*inner[0], flags))
        return _repeat(_sequence(inner, flags), int(least), int(most))
    if word in ("ASSERT", "ASSERT_NOT"):
        direction, inner = argument
        back = inner.getwidth()[0] if direction < 0 else 0
        return _look(_sequence(inner, flags), back, behind=direction < 0, wanted=word == "ASSERT")
    if word == "FAILURE":
        return lambda name, places: 0
    raise re.error("references back to groups, and repeats that give nothing back, are not known here")


def _alone(kind: Any, argument: Any, flags: int) -> re.Pattern[str]:
    state = _parser.State()
    state.flags = flags
    found: re.Pattern[str] = _compiler.compile(_parser.SubPattern(state, [(kind, argument)]), flags)
    return found


def _text(text: str) -> _Step:
    def where(name: str) -> int:
        found, place = 0, name.find(text)
        while place >= 0:
            found |= 1 << place
            place = name.find(text, place + 1)
        return found

    return _taken(where, len(text))


def _characters(kind: Any, argument: Any, flags: int) -> Callable[[str], int]:
    """Where one stands that is meant."""
    pattern = _alone(kind, argument, flags)
    return _kept(lambda name: sum(1 << found.start() for found in pattern.finditer(name)))


def _place(kind: Any, argument: Any, flags: int) -> _Step:
    pattern = _alone(kind, argument, flags)
    return _taken(lambda name: sum(1 << i for i in range(len(name) + 1) if pattern.match(name, i)), 0)


def _kept(where: Callable[[str], int]) -> Callable[[str], int]:
    """Asked once for a name: repeats come back to it."""
    last: tuple[str, int] = "", where("")

    def kept(name: str) -> int:
        nonlocal last
        known, found = last
        if known is not name:
            found = where(name)
            last = name, found
        return found

    return kept


def _taken(where: Callable[[str], int], length: int) -> _Step:
    """Of what is so long, and stands ``where``."""
    kept = _kept(where)
    return lambda name, places: (places & kept(name)) << length


def _any_number(where: Callable[[str], int]) -> _Step:
    """Of single characters: a sum carries a bit through all that stand in a row (Cameron et al., ICPP 2014)."""

    def follow(name: str, places: int) -> int:
        standing = where(name)
        return (((places & standing) + standing) ^ standing) | places

    return follow


def _branch(steps: list[_Step]) -> _Step:
    def follow(name: str, places: int) -> int:
        found = 0
        for step in steps:
            found |= step(name, places)
        return found

    return follow


def _repeat(step: _Step, least: int, most: int) -> _Step:
    def follow(name: str, places: int) -> int:
        for _ in range(least):
            before, places = places, step(name, places)
            if places == before:  # and so it would be after all others
                break
        found = new = places
        count = least
        while new and count < most:
            new = step(name, new) & ~found
            found |= new
            count += 1
        return found

    return follow


def _look(step: _Step, back: int, *, behind: bool, wanted: bool) -> _Step:
    """``back``: characters that a look behind is of."""

    def follow(name: str, places: int) -> int:
        found = 0
        for place in range(back if wanted else 0, len(name) + 1):
            if not places >> place & 1:
                continue
            reached = step(name, 1 << place - back) if place >= back else 0
            if bool(reached >> place & 1 if behind else reached) == wanted:
                found |= 1 << place
        return found

    return follow
