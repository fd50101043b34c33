"""Names like one that is not known, as part of a sentence."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from itertools import islice

from mil_palettize.program.bare_names import module_of

_MOST = 3
# Looking takes the product of two names' lengths for each pair: longer names and more of them are not gone through.
_LONGEST = 300
_MOST_KNOWN = 20_000


def near_names(name: str, names: Iterable[str]) -> str:
    """``"; did you mean 'a', 'b'?"`` or ``""``. Names that hold ``name`` are near, those that differ in
    punctuation (a module called ``layers.0.fc`` has the weight ``layers_0_fc_weight``), and weights of modules that are
    called alike."""
    known = sorted({one for one in islice(names, _MOST_KNOWN) if len(one) <= _LONGEST})
    if len(name) > _LONGEST:
        return ""
    plain = {known_name: _plain(known_name) for known_name in known}
    holding = [known_name for known_name in known if _plain(name) in plain[known_name]] if len(name) > 2 else []
    modules = {known_name: _plain(module_of(known_name)) for known_name in known}
    close = difflib.get_close_matches(name, known, n=_MOST, cutoff=0.6) + holding
    for of in (plain, modules):
        alike = set(difflib.get_close_matches(_plain(name), filter(None, of.values()), n=_MOST, cutoff=0.6))
        close += [known_name for known_name in known if of[known_name] in alike]
    found = list(dict.fromkeys(close))[:_MOST]
    return f"; did you mean {', '.join(map(repr, found))}?" if found else ""


def near_or_some_names(name: str, names: Iterable[str]) -> str:
    """The same, or a few of ``names`` where none is near."""
    names = list(names)
    return near_names(name, names) or _some(sorted({one for one in names if len(one) <= _LONGEST}))


def near_pattern(pattern: str, names: Iterable[str]) -> str:
    """The same for a pattern that matches nothing: names that hold a word like the longest one of the pattern's."""
    known = sorted({one for one in islice(names, _MOST_KNOWN) if len(one) <= _LONGEST})
    words = re.findall(r"[a-z]{3,}|[a-z]+[0-9]+", re.sub(r"^re:|\\.", " ", pattern[:_LONGEST].lower()))
    parts = {part: name for name in reversed(known) for part in _plain(name).split("_")}
    for word in sorted(words, key=len, reverse=True):
        alike = difflib.get_close_matches(word, list(parts), n=_MOST, cutoff=0.6)
        if alike:
            return f"; there are {', '.join(repr(parts[part]) for part in alike)}"
    return _some(known)


def _some(known: Sequence[str]) -> str:
    return f"; names are like {', '.join(map(repr, known[:_MOST]))}" if known else ""


def _plain(name: str) -> str:
    return re.sub(r"[^\w/]+", "_", name.lower())
