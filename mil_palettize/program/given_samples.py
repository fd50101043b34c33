"""Samples as they are given in Python: for a model, or for each of its functions."""

from __future__ import annotations

from collections.abc import Mapping


def is_by_function(given: object) -> bool:
    """Whether these are samples by the names of functions: no input is itself a mapping, or a list of them."""
    return isinstance(given, Mapping) and any(map(_holds_samples, given.values()))


def _holds_samples(value: object) -> bool:
    first = value[0] if isinstance(value, list | tuple) and value else value
    return isinstance(first, Mapping) or (first is not value and _holds_samples(first))
