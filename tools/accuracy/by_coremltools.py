"""Packages as coremltools itself palettizes them, to stand beside ours."""

from __future__ import annotations

import shutil
from pathlib import Path

import coremltools as ct
from coremltools.optimize.coreml import OptimizationConfig, palettize_weights

KIND = "coremltools"
_ADDED = "_palettized"


def palettized(source: Path, out: Path, config: OptimizationConfig) -> None:
    """``source`` by coremltools' k-means; ``out`` is replaced."""
    model = palettize_weights(ct.models.MLModel(str(source), skip_model_load=True), config)
    shutil.rmtree(out, ignore_errors=True)
    model.save(str(out))


def original_name(name: str) -> str:
    """What a constant was called before coremltools palettized it."""
    return name.removesuffix(_ADDED)
