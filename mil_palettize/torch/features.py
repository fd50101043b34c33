"""The inputs and outputs of a model as its description has them: arrays, images, labels, and what is optional."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from mil_palettize.errors import ConfigError, EvaluationError
from mil_palettize.program.described_sizes import is_flexible, shape_refusal, size_refusal
from mil_palettize.program.messages import CoreML, FeatureTypes
from mil_palettize.program.model import Model
from mil_palettize.program.stages import Stage
from mil_palettize.program.values import MIL
from mil_palettize.torch.evaluator.memory import claim, one_line

_COLORS = FeatureTypes.ImageFeatureType.ColorSpace
GRAYSCALE_FLOAT16 = _COLORS.Value("GRAYSCALE_FLOAT16")
GRAYSCALES = (_COLORS.Value("GRAYSCALE"), GRAYSCALE_FLOAT16)
BGR = _COLORS.Value("BGR")
CHANNELS = (1, 3, 4)  # of pictures as they are given
_WHITE = 255  # of an image of bytes
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
            raise EvaluationError(f"the model has no input {unknown[0]!r}; it takes {self.inputs_text()}")

    def inputs_text(self) -> str:
        """Names of all inputs, each with the shape or size that it takes."""
        return ", ".join(f"{name!r} {_taken(feature.type)}".rstrip() for name, feature in sorted(self.inputs.items()))

    def missing_text(self, name: str, taken: Iterable[str]) -> str:
        """Why the input ``name`` cannot be left out; ``taken``: all that the model takes."""
        described = self.inputs.get(name)
        if described is None or not described.type.isOptional:
            return f"input {name!r} is missing; the model takes {sorted(taken)}"
        if is_flexible(described.type.multiArrayType):
            return f"input {name!r} is optional, but of flexible size: nothing says which it has when left out; give it"
        return f"input {name!r} is optional, but its description has no default value; give it"

    def tensors(self, inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Arrays and images as the program takes them. Raises EvaluationError for what a device would refuse: shapes
        and image sizes that are not those of the description, pixels that no byte holds."""
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
        if isinstance(value, str | int | dict | np.ndarray):  # a label, the probability of each, an input handed on
            return value
        if not isinstance(value, torch.Tensor):
            raise EvaluationError(f"output {name!r} is a {type(value).__name__}, which no model gives")
        try:
            image = self.image_output(name)
            return value.detach().cpu().numpy() if image is None else _image_array(value, image)
        except (ValueError, IndexError, RuntimeError) as error:
            told = f"output {name!r} of shape {list(value.shape)} is not what its description says: {one_line(error)}"
            raise EvaluationError(told) from error

    def image_output(self, name: str) -> FeatureTypes.ImageFeatureType | None:
        """How an output is described that is an image, None for others."""
        described = self.outputs_described.get(name)
        is_image = described is not None and described.type.WhichOneof("Type") == "imageType"
        return described.type.imageType if described is not None and is_image else None


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


def check_integers(name: str, given: torch.Tensor, converted: torch.Tensor, kind: str) -> None:
    """Raise EvaluationError where an input that is ``given`` has a number that the declared type (``kind``, MIL's name)
    does not hold. ``converted``: as it is computed, which may be a wider type."""
    least, most = (0, 1) if kind == "bool" else (np.iinfo(kind).min, np.iinfo(kind).max)
    wide = converted.to(torch.int64)
    wrong = (converted != given.to(torch.float64 if given.is_floating_point() else torch.int64)) | (wide < least)
    wrong |= wide > min(most, torch.iinfo(torch.int64).max)
    if bool(wrong.any()):
        worst = given[wrong].reshape(-1)[0].item()
        raise EvaluationError(
            f"input {name!r} has values that {kind} cannot hold, such as {worst}; it holds whole numbers from "
            f"{least} to {most}"
        )


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


def _taken(kind: FeatureTypes.FeatureType) -> str:
    """What an input takes, "" where nothing says it."""
    which = kind.WhichOneof("Type")
    if which == "imageType":
        return f"(image {size_refusal(-1, -1, kind.imageType) or 'of any size'})"
    if which != "multiArrayType":
        return ""
    array = kind.multiArrayType
    return shape_refusal((-1,), array) or str([int(size) for size in array.shape])


def _default(feature: CoreML.FeatureDescription) -> torch.Tensor | None:
    """What an optional input is when it is not given: its default value everywhere."""
    array = feature.type.multiArrayType
    kind = array.WhichOneof("defaultOptionalValue")
    if not feature.type.isOptional or kind is None or is_flexible(array):
        return None
    try:
        claim(array.shape)
        return torch.full(tuple(array.shape), getattr(array, kind))
    except (MemoryError, RuntimeError, TypeError) as error:
        told = f"the default of input {feature.name!r}, of shape {list(array.shape)}, cannot be made: {one_line(error)}"
        raise EvaluationError(told) from error


def _check_shape(name: str, shape: tuple[int, ...], array: FeatureTypes.ArrayFeatureType) -> None:
    """Fixed shapes are checked where the program's types are."""
    told = shape_refusal(shape, array)
    if told:
        raise EvaluationError(f"input {name!r} has shape {list(shape)}; the model takes {told}")


def _image_tensor(name: str, array: np.ndarray, kind: FeatureTypes.ImageFeatureType) -> torch.Tensor:
    """(1, channels, height, width) of 0 .. 255; the program scales it. RGB is turned to BGR where that is asked for."""
    if array.ndim == 4:  # as the program takes it
        _check_picture(name, array, array.shape[2:], kind)
        return torch.as_tensor(array)
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in CHANNELS):
        raise EvaluationError(
            f"input {name!r} is an image, not of shape {list(array.shape)}; give (height, width), or "
            "(height, width, channels) with 1, 3 or 4 channels"
        )
    _check_picture(name, array, array.shape[:2], kind)
    pixels = array[..., None] if array.ndim == 2 else array
    planes = _gray(pixels, kind.colorSpace) if kind.colorSpace in GRAYSCALES else _colors(pixels, kind.colorSpace)
    return torch.as_tensor(np.ascontiguousarray(planes)[None]).float()


def _check_picture(name: str, array: np.ndarray, size: tuple[int, ...], kind: FeatureTypes.ImageFeatureType) -> None:
    """``size``: height and width."""
    told = size_refusal(size[0], size[1], kind)
    if told:
        raise EvaluationError(
            f"input {name!r} is an image of {size[1]}×{size[0]} (width × height); the model takes {told}"
        )
    if kind.colorSpace == GRAYSCALE_FLOAT16 or not array.size:
        return
    least, most = array.min(), array.max()
    if not (least >= 0 and most <= _WHITE):
        wrong = least if not least >= 0 else most
        raise EvaluationError(
            f"input {name!r} is an image and has the pixel {wrong}; pixels are numbers from 0 to {_WHITE}"
        )
    if array.dtype.kind == "f" and 0 < most <= 1:
        raise EvaluationError(
            f"input {name!r} is an image of floats from 0 to 1, which is black to the model: it scales pixels itself; "
            f"give them from 0 to {_WHITE} (times {_WHITE}), or as uint8"
        )


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
