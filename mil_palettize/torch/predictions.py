"""What a package gives for samples: its outputs, told as text, as JSON, or written to a ``.npz`` file."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from mil_palettize.errors import EvaluationError
from mil_palettize.reports.counting import Count, untold
from mil_palettize.reports.tables import format_table
from mil_palettize.text import format_count, printable
from mil_palettize.torch.ahead import Ahead, in_turn
from mil_palettize.torch.evaluator.constant_store import EVERYTHING
from mil_palettize.torch.evaluator.model_pipeline import Evaluated, open_model
from mil_palettize.torch.evaluator.module import PathLike
from mil_palettize.torch.evaluator.ops.random import drawing
from mil_palettize.torch.function_inputs import inputs_for
from mil_palettize.torch.made_up_inputs import plausible_inputs
from mil_palettize.torch.pixels import Pixels, check_pictures
from mil_palettize.torch.samples import Arrays, Samples, read_samples


@dataclass(frozen=True)
class Outcome:
    """``outputs``: by name, of ``samples``, with several along a new first axis; ``notes``: on how these were read."""

    outputs: Arrays
    samples: int
    notes: Sequence[str] = ()


def run_package(
    path: PathLike,
    inputs: PathLike | None = None,
    *,
    random: int = 1,
    seed: int = 0,
    function: str | None = None,
    precision: str = "fp32",
    pixels: Pixels | None = None,
    memory: int | None = None,
    count: Count = untold,
) -> Outcome:
    """Run a package on ``inputs`` (:func:`read_samples`), else on ``random`` made up samples. Probabilities of a
    classifier come in the order of its classes. ``memory``: bytes of constants that are
    kept, None for all. ``count``: told of each sample."""
    limit = EVERYTHING if memory is None else memory
    module = open_model(path, function, precision=precision, memory=limit)
    found = []
    with inputs_for(module, inputs, named=function is not None) as own:
        samples, ahead = _samples(module, own, random, seed, pixels), Ahead(module)
        for number, sample in enumerate(in_turn(samples, [ahead])):
            # Ops that draw random numbers draw the same every time.
            with samples.naming(number), drawing(seed + number):
                found.append(module.features.outputs(ahead.results(sample)))
            count("running", number + 1, len(samples))
    outputs = {name: [_array(result[name]) for result in found] for name in found[0]}
    return Outcome({name: _joined(name, arrays) for name, arrays in outputs.items()}, len(samples), samples.notes)


def _samples(module: Evaluated, inputs: PathLike | None, random: int, seed: int, pixels: Pixels | None) -> Samples:
    check_pictures(pixels, inputs)
    if inputs is not None:
        return read_samples(inputs, module, pixels=pixels)
    return Samples(plausible_inputs(module, random, seed))


def outputs_text(outcome: Outcome, inputs: str | None, seed: int, width: int) -> str:
    """Where the inputs came from, and a line for each output: shape, type, range and mean."""
    source = inputs or f"random inputs from the description, seed {seed}"
    told = [f"{format_count(outcome.samples, 'sample')}: {source}", *outcome.notes]
    headers = ("output", "shape", "type", "least", "greatest", "mean")
    table = format_table(headers, _rows(outcome.outputs), width, right=3)
    return "\n".join([*map(printable, told), table]) + "\n"


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


def outputs_json(outcome: Outcome) -> str:
    """Everything, NaN and infinities as null."""
    arrays = {name: _plain(array.tolist()) for name, array in outcome.outputs.items()}
    whole = {"samples": outcome.samples, "outputs": arrays, "notes": list(outcome.notes)}
    return json.dumps(whole, ensure_ascii=False, allow_nan=False) + "\n"


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


def packed_outputs(outputs: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of a ``.npz`` file, by hand: ``numpy.savez`` has no place for what is called ``file``."""
    file = io.BytesIO()  # devices cannot tell where they are, which a zip file asks
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in outputs.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                _write_array(member, array)
    return file.getvalue()


def _write_array(file: IO[bytes], array: np.ndarray) -> None:
    """Text as unicode: arrays of objects would need pickles."""
    plain = array.astype(np.str_) if array.dtype.kind == "O" else np.asarray(array)
    np.lib.format.write_array(file, plain, allow_pickle=False)
