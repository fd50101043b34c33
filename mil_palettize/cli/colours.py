"""Colours of text on terminals that have them, where ``NO_COLOR`` is not set (https://no-color.org)."""

from __future__ import annotations

import os
import re
from typing import TextIO

_END = "\x1b[0m"
_BOLD, _RED, _YELLOW, _DIM = "\x1b[1m", "\x1b[31m", "\x1b[33m", "\x1b[2m"
# What a line begins with, or holds, and how that looks. Words say the same: colour is never all there is.
_LOOKS = (
    (re.compile(r"^mil-palettize: error:", re.M), _RED),
    (re.compile(r"^(?:left alone|moved to a later opset|biases corrected|notes|next):", re.M), _BOLD),
    (re.compile(r"^fails:", re.M), _RED),
    (re.compile(r"^(?:falls back to another device|much slower):", re.M), _YELLOW),
    (re.compile(r"\bwarning:"), _YELLOW),
    (re.compile(r"^[ ─]*─[ ─]*$", re.M), _DIM),
)


def has_colours(stream: TextIO) -> bool:
    """Whether ``stream`` is a terminal that shows them, and nobody said that there should be none."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def coloured(text: str) -> str:
    """``text`` with its titles, rules and warnings in colours."""
    for pattern, look in _LOOKS:
        text = pattern.sub(rf"{look}\g<0>{_END}", text)
    return text
