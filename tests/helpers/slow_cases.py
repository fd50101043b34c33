"""Cases of one claim that the default suite leaves to ``-m slow``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def scaled_vectors(form: str) -> bool:
    """Forms (``form_packages``) that take as long as twenty others: a claim about all forms is tried on one of them by
    default, ``vectors, scaled``, and on all of them by tests of their own."""
    return "vectors" in form and "scaled" in form and form != "vectors, scaled"


def slow_where(slow: Callable[..., bool], cases: Iterable[Any]) -> list[Any]:
    """Parameters for ``parametrize``: a case for which ``slow`` holds is a slow test. Tuples are several parameters."""
    found = []
    for case in cases:
        values = case if isinstance(case, tuple) else (case,)
        found.append(pytest.param(*values, marks=pytest.mark.slow if slow(*values) else ()))
    return found
