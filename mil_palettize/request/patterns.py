"""Names that stand for several: regular expressions (``re:PATTERN``) and globs (``*`` is any text).

A pattern matches whole names, of constants, of ops and of what ops give. A glob also matches names of modules, as far
as names of constants tell them (``program/bare_names.py``), whatever stands between their parts: ``layers.*.fc`` is for
``layers_0_fc_weight_to_fp16``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from mil_palettize.errors import ConfigError
from mil_palettize.program.bare_names import bare_name, before_export, module_of

if sys.version_info >= (3, 11):
    from re import _parser  # type: ignore[attr-defined]
else:
    import sre_parse as _parser

PATTERN = "re:"
_ANY = "*"
_MOST_REPEATS = 6
_REPEATS = ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")


def is_pattern(entry: str) -> bool:
    """Whether a name of a config stands for what it matches. A name that is written out so goes before that."""
    return entry.startswith(PATTERN) or _ANY in entry


def check_pattern(entry: str, where: str) -> None:
    """Raise ConfigError for a ``re:`` name that is no regular expression, and for a pattern that may take a time
    without end: that repeats what repeats, repeats many things, or refers back to a group."""
    if not entry.startswith(PATTERN):
        if len(re.findall(r"\*+", entry)) > _MOST_REPEATS:
            raise ConfigError(f"{where}[{entry!r}] has more than {_MOST_REPEATS} of *; use fewer")
        return
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


def matches(entry: str, names: Iterable[str], exported: bool = False) -> bool:
    """Whether a pattern means one of ``names``. ``exported``: they are torch.export's (``is_exported``)."""
    pattern = pattern_of(entry)
    if entry.startswith(PATTERN):
        return any(pattern.fullmatch(name) for name in names)
    return any(pattern.fullmatch(form) for name in names for form in _forms(name, exported))


@lru_cache
def pattern_of(entry: str) -> re.Pattern[str]:
    """Of a pattern; that of a glob is for names with ``_`` between their parts."""
    if entry.startswith(PATTERN):
        return re.compile(entry.removeprefix(PATTERN))
    first, *middle, last = (re.escape(plain_name(part)) for part in re.split(r"\*+", entry))
    # What a lookahead found is not tried again: each part is taken where it comes first, in time that grows with a
    # name's length and not with a power of it (as the standard library's fnmatch has it).
    found = (f"(?=(?P<g{number}>.*?{part}))(?P=g{number})" for number, part in enumerate(middle))
    return re.compile(f"{first}{''.join(found)}.*{last}", re.DOTALL)


def plain_name(name: str) -> str:
    """With ``_`` in the place of everything between the parts of a name, but for the ``/`` after a function."""
    return re.sub(r"[^\w/]+", "_", name)


@lru_cache(maxsize=1 << 16)
def _forms(name: str, exported: bool) -> tuple[str, ...]:
    """What a glob may mean a constant by: its name, that without what coremltools added, its module; where it is
    ``exported`` these also without what torch.export puts before them."""
    forms = [plain_name(form) for form in (name, bare_name(name), module_of(name)) if form]
    return tuple(dict.fromkeys([*forms, *(before_export(form) for form in forms if exported)]))
