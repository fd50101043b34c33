"""Samples as lines of JSON: token ids, and whatever else is a few numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mil_palettize.errors import EvaluationError, PackageError
from mil_palettize.package.links import refuse_pointer
from mil_palettize.torch.evaluator.model_pipeline import Evaluated
from mil_palettize.torch.made_up_inputs import default_shape

SUFFIXES = (".jsonl", ".ndjson")


def json_lines(path: Path, module: Evaluated, only_input: str | None) -> list[Any]:
    """A sample for each line that is not empty: an object of (nested) lists of numbers by input, or a list for the
    ``only_input`` of a model; a list of objects is a sequence of calls. Whole numbers become int32, others float32; an
    axis of 1 that the model has in front may be left out.

    Raises PackageError for what is no JSON, EvaluationError for what is no array and for a file without samples.
    """
    refuse_pointer(path)
    samples = [_sample(what, line, module, only_input) for what, line in _lines(path)]
    if not samples:
        raise EvaluationError(f"{path} holds no sample; write one on each line")
    return samples


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        told = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise PackageError(f"cannot read {path}: {told}; it must be lines of JSON") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                yield f"line {number} of {path}", json.loads(line)
            except (ValueError, RecursionError) as error:
                told = getattr(error, "msg", None) or type(error).__name__
                raise PackageError(f"cannot read {path}: line {number} is no JSON ({told})") from error


def _sample(what: str, value: Any, module: Evaluated, only_input: str | None) -> Any:
    if isinstance(value, list) and value and all(isinstance(call, dict) for call in value):
        return [_call(what, call, module) for call in value]
    if isinstance(value, dict):
        return _call(what, value, module)
    if only_input is None or not isinstance(value, list):
        kinds = "an object of lists by input" + ("" if only_input is None else ", or a list of numbers")
        raise EvaluationError(f"{what} is {json.dumps(value)[:40]}; write {kinds}: {module.features.inputs_text()}")
    return _call(what, {only_input: value}, module)


def _call(what: str, values: dict[str, Any], module: Evaluated) -> dict[str, np.ndarray]:
    module.features.check_names(values)
    return {name: _array(f"{what}, input {name!r},", value, module, name) for name, value in values.items()}


def _array(what: str, value: Any, module: Evaluated, name: str) -> np.ndarray:
    try:
        array = np.array(value)
    except ValueError as error:
        raise EvaluationError(f"{what} is no array: its lists are of other lengths") from error
    if array.dtype.kind not in "iufb":
        raise EvaluationError(f"{what} is no array of numbers, but {json.dumps(value)[:40]}")
    kind = module.features.inputs[name].type
    usual = default_shape(kind.multiArrayType) if kind.WhichOneof("Type") == "multiArrayType" else ()
    if usual[:1] == (1,) and array.ndim == len(usual) - 1:
        array = array[None]
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    whole = np.iinfo(np.int32)
    fits = not array.size or (array.min() >= whole.min and array.max() <= whole.max)
    return array.astype(np.int32) if fits else array
