"""Which samples are of which function of a model with several, and what is said where they are of another."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mil_palettize.errors import EvaluationError
from mil_palettize.text import format_some


def inputs_of(function: str, functions: Sequence[str], inputs: Any) -> Any:
    """What of ``inputs`` is for one of ``functions``: theirs by name, of a mapping; its own file, of a folder with
    files ``NAME.npz`` of functions; anything else is for all of them. Raises EvaluationError for a folder that has
    files of other functions only."""
    if isinstance(inputs, str | os.PathLike):
        files = {name: file for name in functions if (file := own_file(inputs, name))}
        if files and function not in files:
            there = format_some([file.name for file in files.values()])
            raise EvaluationError(f"{os.fspath(inputs)} has {there}, but no {function}.npz")
        return files.get(function, inputs)
    if isinstance(inputs, Mapping) and inputs.keys() == set(functions):
        return inputs[function]
    return inputs


def own_file(inputs: Any, function: str) -> Path | None:
    """The samples of a function in a folder that has them by function, None where ``inputs`` are none."""
    file = Path(inputs, f"{function}.npz") if isinstance(inputs, str | os.PathLike) else None
    return file if file is not None and file.is_file() else None


@contextmanager
def function_told(function: str, functions: Sequence[str], *, shared: bool) -> Iterator[None]:
    """Have EvaluationErrors say of which of several ``functions`` they are. ``shared``: the inputs were given, and not
    for this function by its name."""
    try:
        yield
    except EvaluationError as error:
        others = [f"--function {name}" for name in functions if name != function]
        if not others:
            raise
        advice = f"; name the function that the inputs are for ({format_some(others)})" if shared else ""
        raise EvaluationError(f"function {function!r}: {error}{advice}") from error
