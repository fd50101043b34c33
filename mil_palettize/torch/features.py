"""The inputs and outputs of a model as its description has them: arrays, images, labels, and what is optional."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from mil_palettize.errors import ConfigError, EvaluationError
from mil_palettize.program.messages import CoreML, FeatureTypes
from mil_palettize.program.model import Model
from mil_palettize.program.serialized import Stage
from mil_palettize.program.values import MIL

_COLORS = FeatureTypes.ImageFeatureType.ColorSpace
GRAYSCALE_FLOAT16 = _COLORS.Value("GRAYSCALE_FLOAT16")
GRAYSCALES = (_COLORS.Value("GRAYSCALE"), GRAYSCALE_FLOAT16)
BGR = _COLORS.Value("BGR")
CHANNELS = (1, 3, 4)  # of pictures as they are given
_LUMINANCE = np.array([0.299, 0.587, 0.114])


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
        tensors = {name: self._tensor(name, value) for name, value in inputs.items()}
        self.check_shapes(tensors)
        return tensors

    def check_shapes(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Raise EvaluationError for an array whose shape is none of those that a flexible input may have."""
        for name, tensor in tensors.items():
            described = self.inputs.get(name)
            if described is not None and described.type.WhichOneof("Type") == "multiArrayType":
                _check_shape(name, tuple(tensor.shape), described.type.multiArrayType)

    def _tensor(self, name: str, value: Any) -> torch.Tensor:
        described = self.inputs.get(name)
        if described is not None and described.type.WhichOneof("Type") == "imageType":
            return _image_tensor(name, plain_array(name, value), described.type.imageType)
        return value if isinstance(value, torch.Tensor) else torch.as_tensor(plain_array(name, value))

    def outputs(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """What the program gave, as ``MLModel.predict`` gives it: arrays; images as uint8 (height, width, channels),
        those of GRAYSCALE_FLOAT16 as floats."""
        return {name: self._output(name, value) for name, value in found.items()}

    def _output(self, name: str, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        described = self.outputs_described.get(name)
        if described is not None and described.type.WhichOneof("Type") == "imageType":
            return _image_array(value, described.type.imageType)
        return value.detach().cpu().numpy()


def plain_array(name: str, value: Any) -> np.ndarray:
    """An input as an array that torch takes: contiguous, writable, in native byte order.

    Raises EvaluationError for what holds no numbers.
    """
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # lists of unequal lengths, tensors with gradients
        told = " ".join(str(error).split())
        raise EvaluationError(f"input {name!r} is no array ({told}); give an array of numbers") from error
    if array.dtype.kind not in "fiub":
        raise EvaluationError(f"input {name!r} is of dtype {array.dtype}; give an array of numbers")
    too_long = array.dtype.kind == "f" and array.dtype.itemsize > 8  # longdouble, which torch lacks
    return np.require(array, np.float64 if too_long else array.dtype.newbyteorder("="), ["C", "A", "W", "E"])


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


def _check_shape(name: str, shape: tuple[int, ...], array: FeatureTypes.ArrayFeatureType) -> None:
    """Fixed shapes are checked where the program's types are."""
    if array.WhichOneof("ShapeFlexibility") == "enumeratedShapes":
        shapes = [tuple(one.shape) for one in array.enumeratedShapes.shapes]
        fits, told = shape in shapes, f"one of {[list(one) for one in shapes]}"
    else:
        ranges = [(int(size.lowerBound), int(size.upperBound)) for size in array.shapeRange.sizeRanges]
        fits = not ranges or _is_within(shape, ranges)
        told = f"[{', '.join(_range_text(*limits) for limits in ranges)}]"
    if not fits:
        raise EvaluationError(f"input {name!r} has shape {list(shape)}; the model takes {told}")


def _is_within(shape: tuple[int, ...], ranges: Sequence[tuple[int, int]]) -> bool:
    """An upper limit below zero is none."""
    return len(shape) == len(ranges) and all(
        least <= size and (size <= most or most < 0) for size, (least, most) in zip(shape, ranges, strict=True)
    )


def _range_text(least: int, most: int) -> str:
    return f"{least}" if least == most else f"{least}..{most if most >= 0 else ''}"


def _image_tensor(name: str, array: np.ndarray, kind: FeatureTypes.ImageFeatureType) -> torch.Tensor:
    """(1, channels, height, width) of 0 .. 255; the program scales it. RGB is turned to BGR where that is asked for."""
    if array.ndim == 4:  # as the program takes it
        return torch.as_tensor(array)
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in CHANNELS):
        raise EvaluationError(
            f"input {name!r} is an image, not of shape {list(array.shape)}; give (height, width), or "
            "(height, width, channels) with 1, 3 or 4 channels"
        )
    pixels = array[..., None] if array.ndim == 2 else array
    planes = _gray(pixels, kind.colorSpace) if kind.colorSpace in GRAYSCALES else _colors(pixels, kind.colorSpace)
    return torch.as_tensor(np.ascontiguousarray(planes)[None]).float()


def _gray(pixels: np.ndarray, space: int) -> np.ndarray:
    """One plane. Only what was made of several channels is rounded, as integers hold it."""
    if pixels.shape[2] == 1:
        return pixels.transpose(2, 0, 1)
    gray = pixels[..., :3].astype(np.float64) @ _LUMINANCE
    return (gray if space == GRAYSCALE_FLOAT16 else np.rint(gray))[None]


def _colors(pixels: np.ndarray, space: int) -> np.ndarray:
    """Three planes; transparency is left out."""
    planes = (np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels[..., :3]).transpose(2, 0, 1)
    return planes[::-1] if space == BGR else planes


def _image_array(value: torch.Tensor, kind: FeatureTypes.ImageFeatureType) -> np.ndarray:
    planes = value.detach().reshape(-1, *value.shape[-2:]).cpu()
    if kind.colorSpace == GRAYSCALE_FLOAT16:
        return np.asarray(planes[0].numpy())
    pixels = planes.clamp(0, 255).round().to(torch.uint8).numpy()
    if kind.colorSpace in GRAYSCALES:
        return np.asarray(pixels[0])
    return np.ascontiguousarray((pixels[::-1] if kind.colorSpace == BGR else pixels).transpose(1, 2, 0))
