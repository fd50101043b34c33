"""The Python call that makes a comparison again, as its page shows it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any

_UNTOLD = ("progress",)  # which changes nothing of what is found
_FEW = 8  # elements of a list that is written out


def call_text(function: Callable[..., Any], given: Mapping[str, Any]) -> str:
    """The call of ``function`` with the arguments ``given`` by name. Those that are their defaults are left out; what
    no line holds, such as arrays, goes by the name of its parameter.

    >>> call_text(sorted, {"iterable": [3, 1], "key": None, "reverse": True})
    'sorted([3, 1], reverse=True)'
    """
    shown = []
    for name, parameter in inspect.signature(function).parameters.items():
        value = given[name]
        if name in _UNTOLD or _is_default(value, parameter.default):
            continue
        text = _shown(value) or name
        shown.append(f"{name}={text}" if parameter.kind is parameter.KEYWORD_ONLY else text)
    return f"{function.__name__}({', '.join(shown)})"


def _is_default(value: Any, default: Any) -> bool:
    """Arrays are never: they have no truth to compare by."""
    return isinstance(value, bool | int | float | str | tuple | None) and bool(value == default)


def _shown(value: Any) -> str:
    """As Python has it, "" where that is too long for a line."""
    if isinstance(value, os.PathLike):
        return repr(os.fspath(value))
    if isinstance(value, bool | int | float | str | None):
        return repr(value)
    if isinstance(value, list | tuple) and 0 < len(value) <= _FEW and all(map(_shown, value)):
        return f"[{', '.join(map(_shown, value))}]"
    return ""
