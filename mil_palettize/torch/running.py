"""Samples from files, and a package run on them."""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mil_palettize.errors import EvaluationError, PackageError
from mil_palettize.evaluation import ModelComparison
from mil_palettize.tables import format_count, format_table, printable
from mil_palettize.torch.comparing import compare_models
from mil_palettize.torch.module import PathLike
from mil_palettize.torch.pipeline import Evaluated, open_model
from mil_palettize.torch.plausible import default_shape, plausible_inputs

Arrays = dict[str, np.ndarray]


def run_package(
    path: PathLike,
    inputs: PathLike | None = None,
    *,
    random: int = 1,
    seed: int = 0,
    function: str | None = None,
    precision: str = "fp32",
) -> tuple[Arrays, int]:
    """Outputs by name, and how many samples they are of: with several, along a new first axis.

    ``inputs``: a ``.npz`` file (:func:`read_samples`), else ``random`` samples are made up. Probabilities of a
    classifier come in the order of its classes.
    """
    module = open_model(path, function, precision=precision)
    samples = plausible_inputs(module, random, seed) if inputs is None else read_samples(inputs, module)
    found = [module.predict(sample) for sample in samples]
    outputs = {name: [_array(result[name]) for result in found] for name in found[0]}
    return {name: _joined(name, arrays) for name, arrays in outputs.items()}, len(samples)


def compare_packages(
    original: PathLike, palettized: PathLike, inputs: PathLike | None = None, **options: Any
) -> ModelComparison:
    """``mil_palettize.compare`` with inputs of a ``.npz`` file."""
    if inputs is None:
        return compare_models(original, palettized, **options)
    module = open_model(original, options.get("function"))
    comparison = compare_models(original, palettized, read_samples(inputs, module), **options)
    comparison.inputs = f"inputs of {os.fspath(inputs)}"
    return comparison


def outputs_text(outputs: Mapping[str, np.ndarray], samples: int, inputs: str | None, seed: int, width: int) -> str:
    """Where the inputs came from, and a line for each output: shape, type, range and mean."""
    told = f"{format_count(samples, 'sample')}: {inputs or f'random inputs from the description, seed {seed}'}"
    return (
        printable(told)
        + "\n"
        + format_table(("output", "shape", "type", "least", "greatest", "mean"), _rows(outputs), width, right=3)
        + "\n"
    )


def _rows(outputs: Mapping[str, np.ndarray]) -> list[list[str]]:
    rows = []
    for name, array in outputs.items():
        told = [printable(name), "×".join(map(str, array.shape)) or "one", array.dtype.name]
        if array.dtype.kind in "fiub" and array.size:
            told += [f"{float(part):.6g}" for part in (array.min(), array.max(), array.mean(dtype=np.float64))]
        else:
            text = printable(", ".join(map(str, array.reshape(-1)[:3])))
            told = [*told[:2], "text", text, "", ""]
        rows.append(told)
    return rows


def outputs_json(outputs: Mapping[str, np.ndarray], samples: int) -> str:
    """Everything, NaN and infinities as null."""
    arrays = {name: _plain(array.tolist()) for name, array in outputs.items()}
    return json.dumps({"samples": samples, "outputs": arrays}, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _array(value: Any) -> np.ndarray:
    return np.array(list(value.values())) if isinstance(value, dict) else np.asarray(value)


def _joined(name: str, arrays: list[np.ndarray]) -> np.ndarray:
    if len(arrays) == 1:
        return arrays[0]
    if len({array.shape for array in arrays}) > 1:
        raise EvaluationError(f"output {name!r} has other shapes for other samples; run them one at a time")
    return np.stack(arrays)


def read_samples(path: PathLike, module: Evaluated) -> list[Arrays]:
    """Samples of a ``.npz`` file that has an array for each input of the model: one, or with an axis more in front,
    several. Raises PackageError for a file that cannot be read, EvaluationError for one that does not fit."""
    arrays = _loaded(Path(path))
    module.features.check_names(arrays)
    lacking = sorted(module.features.inputs.keys() - arrays.keys() - module.features.defaults.keys())
    if lacking:
        raise EvaluationError(f"{path} lacks the input {lacking[0]!r}; it has {sorted(arrays)}")
    several = {name for name, array in arrays.items() if array.ndim == _rank(module, name, array) + 1}
    if not several:
        return [arrays]
    counts = {name: len(arrays[name]) for name in several}
    if len(set(counts.values())) > 1 or min(counts.values()) < 1:
        raise EvaluationError(f"{path} has other numbers of samples for other inputs: {counts}")
    number = next(iter(counts.values()))
    return [{n: a[i] if n in several else a for n, a in arrays.items()} for i in range(number)]


def _rank(module: Evaluated, name: str, array: np.ndarray) -> int:
    """Axes of one sample."""
    kind = module.features.inputs[name].type
    if kind.WhichOneof("Type") == "imageType":
        return 3 if array.shape[-1] in (1, 3, 4) else 2
    if kind.WhichOneof("Type") == "multiArrayType":
        return len(default_shape(kind.multiArrayType))
    return array.ndim


def _loaded(path: Path) -> Arrays:
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            raise EvaluationError(f"{path} holds a single array; save arrays by input names with numpy.savez")
        with found as file:
            return {name: file[name] for name in file.files}
    except EvaluationError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise PackageError(f"cannot read {path}: {error}; it must be a .npz file of plain arrays") from error


def save_outputs(path: PathLike, outputs: Mapping[str, np.ndarray]) -> None:
    """Write outputs to a ``.npz`` file. Raises PackageError."""
    try:
        with open(path, "wb") as file:
            np.savez(file, **outputs)  # type: ignore[arg-type]
    except OSError as error:
        raise PackageError(f"cannot write {path}: {error.strerror or error}") from error
