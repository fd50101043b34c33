"""Which samples are of which function of a model with several, and what is said where they are of another."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mil_palettize.errors import EvaluationError
from mil_palettize.program.given_samples import is_by_function
from mil_palettize.text import format_some
from mil_palettize.torch.evaluator.model_pipeline import Evaluated


def inputs_of(function: str, functions: Sequence[str], inputs: Any) -> Any:
    """What of ``inputs`` is for one of ``functions``: theirs by name, of a mapping of samples by function; its own
    file, of a folder with files ``NAME.npz`` of functions; anything else is for all of them. Raises EvaluationError for
    samples of other functions only, and for names that no function has."""
    if isinstance(inputs, str | os.PathLike):
        files = {name: file for name in functions if (file := own_file(inputs, name))}
        if files and function not in files:
            there = format_some([file.name for file in files.values()])
            raise EvaluationError(f"{os.fspath(inputs)} has {there}, but no {function}.npz")
        others = [] if files else _other_files(inputs)
        if others:
            own = f"call files as the model's functions: {format_some([f'{name}.npz' for name in functions])}"
            advice = own if functions else "give one file"
            raise EvaluationError(f"{os.fspath(inputs)} has {format_some(others)}, and no pictures; {advice}")
        return files.get(function, inputs)
    if not is_by_function(inputs):
        return inputs
    unknown = [name for name in inputs if name not in functions]
    if unknown:
        known = f"it has {format_some(list(map(repr, functions)))}" if functions else "a pipeline has none"
        raise EvaluationError(f"there are samples of {unknown[0]!r}, which is no function of the model; {known}")
    if function not in inputs:
        given = format_some(list(map(repr, inputs)))
        raise EvaluationError(f"there are samples of {given}, but none of function {function!r}")
    own = inputs[function]
    return [own] if isinstance(own, Mapping) else own


def _other_files(inputs: str | os.PathLike[str]) -> list[str]:
    """Names of the ``.npz`` files of a folder that has nothing else."""
    folder = Path(inputs)
    names = sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []
    return names if all(name.endswith(".npz") for name in names) else []


def own_file(inputs: Any, function: str) -> Path | None:
    """The samples of a function in a folder that has them by function, None where ``inputs`` are none."""
    file = Path(inputs, f"{function}.npz") if isinstance(inputs, str | os.PathLike) else None
    return file if file is not None and file.is_file() else None


def has_own(inputs: Any, function: str) -> bool:
    """Whether ``inputs`` are of a function by its name."""
    return own_file(inputs, function) is not None or (is_by_function(inputs) and function in inputs)


@contextmanager
def inputs_for(module: Evaluated, inputs: Any, *, named: bool) -> Iterator[Any]:
    """What of ``inputs`` is for the function that ``module`` is. Meanwhile EvaluationErrors say of which one of several
    they are, unless it was ``named``, and how to ask for another where that was not said of the inputs."""
    others = [f"--function {name}" for name in module.functions if name != module.function_name]
    try:
        yield inputs_of(module.function_name, module.functions, inputs)
    except EvaluationError as error:
        if named or not others:
            raise
        shared = inputs is not None and not has_own(inputs, module.function_name)
        advice = f"; name the function that the inputs are for ({format_some(others)})" if shared else ""
        raise EvaluationError(f"function {module.function_name!r}: {error}{advice}") from error
