"""Calibrated palettes, and palettes in training, in the folder of ``resume``: a run that was stopped goes on at the op,
or after the epoch, where it stopped.

A palette depends on all that came before it. All of that follows from the model, the samples and what is asked for,
whose digest is in the key, with that of the code.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mil_palettize.calibration.finetuning import Finetuning
from mil_palettize.calibration.request import Calibration
from mil_palettize.encoding.encoder import Task
from mil_palettize.encoding.palette_cache import Clustered, code_digest, palette_key
from mil_palettize.encoding.results import Encoded
from mil_palettize.expressions.digest import expression_digest
from mil_palettize.expressions.weight_expr import WeightExpr

_CODE = ("algorithms/**/*.py", "calibration/*.py", "doors/calibrating.py", "doors/calibration_functions.py",
         "encoding/encoder.py", "expressions/*.py", "torch/calibration/*.py", "torch/evaluator/**/*.py")  # fmt: skip
_TRAINING = (*_CODE, "calibration/finetuning.py", "doors/finetuning.py", "torch/training/*.py")
_WITHOUT = (
    "sample_data",
    "memory",
    "image_mean",
    "image_scale",
)  # what does not change a palette, or is told apart by itself


@dataclass(frozen=True)
class KeptRun:
    """``run``: a digest of all that the palettes of one walk depend on."""

    clustered: Clustered
    run: str

    def found(self, name: str, task: Task) -> Encoded | None:
        """The palette that was made for the weight of this name, None where there is none."""
        return self.clustered.palette(self._key(name), task.specification, task.source, task.held, task.importance)

    def keep(self, name: str, made: Encoded) -> None:
        """Raises PackageError when the folder cannot be written to; a full disk is a warning."""
        self.clustered.keep_palette(self._key(name), made)

    def _key(self, name: str) -> str:
        return hashlib.sha256(f"{self.run} {name}".encode()).hexdigest()


def run_digest(
    model: bytes, calibration: Calibration, tasks: Mapping[Any, Task], samples: Iterable[Mapping[str, Any]], place: str
) -> str:
    """``model``: its fingerprint; ``tasks``: of all weights, by what tells these apart; ``samples``: as the program
    takes them; ``place``: the function, and which samples begin anew or are held out."""
    digest = hashlib.sha256(code_digest(_CODE).encode())
    digest.update(model)
    fields = {f.name: getattr(calibration, f.name) for f in dataclasses.fields(calibration) if f.name not in _WITHOUT}
    digest.update(repr((place, fields)).encode())
    for name, task in tasks.items():
        digest.update(repr((name, palette_key("", task.specification, task.form, task.importance))).encode())
    _add_samples(digest, samples)
    return digest.hexdigest()


def training_digest(
    model: bytes, finetuning: Finetuning, begun: Mapping[str, WeightExpr], samples: Iterable[Mapping[str, Any]]
) -> str:
    """``begun``: palettes that training begins with, and those that it leaves, by slot; the rest as of
    :func:`run_digest`."""
    digest = hashlib.sha256(code_digest(_TRAINING).encode())
    digest.update(model)
    labels = None if finetuning.labels is None else [int(label) for label in finetuning.labels]
    fields = {f.name: getattr(finetuning, f.name) for f in dataclasses.fields(finetuning)}
    digest.update(repr({**fields, "sample_data": None, "labels": labels, "stop_here": None}).encode())
    for slot, expr in begun.items():
        digest.update(f"{slot} {expression_digest(expr)};".encode())
    _add_samples(digest, samples)
    return digest.hexdigest()


def _add_samples(digest: hashlib._Hash, samples: Iterable[Mapping[str, Any]]) -> None:
    for sample in samples:
        for name, value in sorted(sample.items()):
            array = np.asarray(value)
            digest.update(f"{name} {array.dtype} {array.shape};".encode())
            digest.update(np.ascontiguousarray(array).tobytes() if array.dtype != object else repr(value).encode())
