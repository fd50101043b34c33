"""Names like one that is not known, as part of a sentence."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from itertools import islice

_MOST = 3
# Looking takes the product of two names' lengths for each pair: longer names and more of them are not gone through.
_LONGEST = 300
_MOST_KNOWN = 20_000


def near_names(name: str, names: Iterable[str]) -> str:
    """``"; did you mean 'a', 'b'?"`` or ``""``. Names that hold ``name`` are near, and those that differ in
    punctuation: a module called ``layers.0.fc`` has the weight ``layers_0_fc_weight``."""
    known = sorted({one for one in islice(names, _MOST_KNOWN) if len(one) <= _LONGEST})
    if len(name) > _LONGEST:
        return ""
    plain = {known_name: _plain(known_name) for known_name in known}
    holding = [known_name for known_name in known if _plain(name) in plain[known_name]] if len(name) > 2 else []
    alike = set(difflib.get_close_matches(_plain(name), list(plain.values()), n=_MOST, cutoff=0.6))
    close = difflib.get_close_matches(name, known, n=_MOST, cutoff=0.6)
    close += holding + [known_name for known_name in known if plain[known_name] in alike]
    found = list(dict.fromkeys(close))[:_MOST]
    return f"; did you mean {', '.join(map(repr, found))}?" if found else ""


def _plain(name: str) -> str:
    return re.sub(r"[^\w/]+", "_", name.lower())
