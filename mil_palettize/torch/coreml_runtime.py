"""A package run by Core ML itself, on a Mac: the part of :class:`MILModule`'s interface that a comparison needs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from mil_palettize.errors import ConfigError
from mil_palettize.torch.evaluator.module import PathLike
from mil_palettize.torch.features import Features


class CoreMLModel:
    """``features``: of the model, to know its images."""

    _features: Features
    _stateful: bool

    def __init__(self, path: PathLike, function: str | None, features: Features) -> None:
        if sys.platform != "darwin":
            raise ConfigError("Core ML runs on Apple systems only; leave --runtime coreml out to compare with torch")
        from coremltools.models import MLModel

        self._features = features
        self._model: Any = MLModel(os.fspath(path), function_name=function)
        description = self._model.get_spec().description
        self._stateful = bool(description.state or any(one.state for one in description.functions))

    def make_state(self) -> Any:
        """A new one, None for a model without states."""
        return self._model.make_state() if self._stateful else None

    def predict(self, inputs: Mapping[str, Any], state: Any = None) -> dict[str, Any]:
        """Images go in as PIL's, which is what Core ML's interface takes, and come back as arrays."""
        given = {name: self._given(name, value) for name, value in inputs.items()}
        return {name: _array(value) for name, value in self._model.predict(given, state).items()}

    def _given(self, name: str, value: Any) -> Any:
        described = self._features.inputs.get(name)
        if not isinstance(value, np.ndarray) or described is None or described.type.WhichOneof("Type") != "imageType":
            return value
        try:
            from PIL import Image
        except ImportError as error:
            raise ConfigError("Core ML takes images as PIL's: pip install pillow") from error
        return Image.fromarray(value)


def _array(value: Any) -> Any:
    """Of an image; labels and dictionaries as they are."""
    return np.asarray(value) if hasattr(value, "getbands") else value
