"""The inputs and outputs of a model as its description has them: arrays, images, labels, and what is optional."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from coremltools.proto import FeatureTypes_pb2 as FeatureTypes
from coremltools.proto import Model_pb2 as CoreML

from mil_palettize.errors import ConfigError, EvaluationError
from mil_palettize.program.model import Model
from mil_palettize.program.serialized import Stage
from mil_palettize.program.values import MIL

_COLORS = FeatureTypes.ImageFeatureType.ColorSpace
GRAYSCALES = tuple(_COLORS.Value(name) for name in ("GRAYSCALE", "GRAYSCALE_FLOAT16"))
BGR = _COLORS.Value("BGR")


@dataclass(frozen=True)
class Features:
    """``inputs``, ``outputs``: descriptions by name. ``defaults``: of optional inputs. ``label`` and ``probabilities``:
    outputs of a classifier, "" for other models."""

    inputs: dict[str, CoreML.FeatureDescription]
    outputs_described: dict[str, CoreML.FeatureDescription]
    defaults: dict[str, torch.Tensor] = field(default_factory=dict)
    label: str = ""
    probabilities: str = ""

    def check_names(self, inputs: Mapping[str, Any]) -> None:
        """Raise EvaluationError for an input that the model has not."""
        unknown = sorted(set(inputs) - set(self.inputs))
        if unknown and self.inputs:
            raise EvaluationError(f"the model has no input {unknown[0]!r}; it takes {sorted(self.inputs)}")

    def tensors(self, inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Arrays and images as the program takes them. Raises EvaluationError."""
        self.check_names(inputs)
        return {name: self._tensor(name, value) for name, value in inputs.items()}

    def _tensor(self, name: str, value: Any) -> torch.Tensor:
        described = self.inputs.get(name)
        if described is not None and described.type.WhichOneof("Type") == "imageType":
            return _image_tensor(name, np.asarray(value), described.type.imageType)
        return value if isinstance(value, torch.Tensor) else torch.as_tensor(np.asarray(value))

    def outputs(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """What the program gave, as ``MLModel.predict`` gives it: arrays; images as uint8 (height, width, channels)."""
        return {name: self._output(name, value) for name, value in found.items()}

    def _output(self, name: str, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        described = self.outputs_described.get(name)
        if described is not None and described.type.WhichOneof("Type") == "imageType":
            return _image_array(value, described.type.imageType)
        return value.detach().cpu().numpy()


def function_of(model: Model, stage: Stage, wanted: str | None) -> tuple[str, MIL.Function]:
    """Name and message of the function to run. Raises ConfigError for one that is not there."""
    functions = dict(stage.program.functions)
    default = stage.model.description.defaultFunctionName or ("main" if "main" in functions else "")
    name = wanted or default or (next(iter(functions)) if len(functions) == 1 else "")
    if name not in functions:
        raise ConfigError(f"{model.package.path} has no function {name!r}; it has {sorted(functions)}")
    return name, functions[name]


def features_of(model: CoreML.Model, name: str, types: Iterable[str]) -> Features:
    """From the description of the model, or of the function where it has one of its own. ``types``: names of inputs,
    where there is no description."""
    described: Any = next((f for f in model.description.functions if f.name == name), model.description)
    inputs = {feature.name: feature for feature in described.input}
    outputs = {feature.name: feature for feature in described.output}
    defaults = {n: tensor for n, feature in inputs.items() if (tensor := _default(feature)) is not None}
    return Features(
        inputs or dict.fromkeys(types, CoreML.FeatureDescription()),
        outputs,
        defaults,
        described.predictedFeatureName,
        described.predictedProbabilitiesName,
    )


def _default(feature: CoreML.FeatureDescription) -> torch.Tensor | None:
    """What an optional input is when it is not given: its default value everywhere."""
    array = feature.type.multiArrayType
    kind = array.WhichOneof("defaultOptionalValue")
    if not feature.type.isOptional or kind is None:
        return None
    return torch.full(tuple(array.shape), getattr(array, kind))


def _image_tensor(name: str, array: np.ndarray, kind: FeatureTypes.ImageFeatureType) -> torch.Tensor:
    """(1, channels, height, width) of 0 .. 255; the program scales it. RGB is turned to BGR where that is asked for."""
    if array.ndim == 4:  # as the program takes it
        return torch.as_tensor(array)
    if kind.colorSpace in GRAYSCALES:
        if array.ndim == 3 and array.shape[2] in (1, 3, 4):
            weights = np.array([0.299, 0.587, 0.114]) if array.shape[2] >= 3 else np.ones(1)
            array = np.rint(array[..., : len(weights)].astype(np.float64) @ weights)
        planes = array[None]
    else:
        if array.ndim == 2:
            array = np.repeat(array[..., None], 3, axis=2)
        planes = array[..., :3].transpose(2, 0, 1)
        planes = planes[::-1] if kind.colorSpace == BGR else planes
    if planes.ndim != 3 or planes.shape[0] not in (1, 3):
        raise EvaluationError(f"input {name!r} is an image; give (height, width, channels), not {list(array.shape)}")
    return torch.as_tensor(np.ascontiguousarray(planes)[None]).float()


def _image_array(value: torch.Tensor, kind: FeatureTypes.ImageFeatureType) -> np.ndarray:
    planes = value.detach().reshape(-1, *value.shape[-2:]).clamp(0, 255).round().to(torch.uint8).cpu().numpy()
    if kind.colorSpace in GRAYSCALES:
        return np.asarray(planes[0])
    return np.ascontiguousarray((planes[::-1] if kind.colorSpace == BGR else planes).transpose(1, 2, 0))
