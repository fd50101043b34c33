"""Inputs made up from a model's description: seeded noise of the right kind, token ids that exist, images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mil_palettize.errors import ConfigError, EvaluationError
from mil_palettize.program.described_sizes import shape_refusal, size_refusal
from mil_palettize.program.messages import FeatureTypes
from mil_palettize.program.values import MIL, type_name
from mil_palettize.text import format_count
from mil_palettize.torch.evaluator.memory import claim_bytes, one_line
from mil_palettize.torch.evaluator.model_pipeline import Evaluated, Pipeline
from mil_palettize.torch.evaluator.module import MILModule
from mil_palettize.torch.evaluator.program import Block, Step
from mil_palettize.torch.evaluator.types import tensor_shape
from mil_palettize.torch.features import GRAYSCALES

_DEFAULT_INTEGERS = 2  # 0 and 1: flags, masks and lengths nobody knows more of
_SMALL = 1 << 16  # elements of constants that are looked at: positions, not weights
_INTEGERS = (FeatureTypes.ArrayFeatureType.INT32, FeatureTypes.ArrayFeatureType.INT8)
_COUNTED = {"fp16": 1 << 11, "fp32": 1 << 24}  # whole numbers below these are all held exactly
_USUAL_SIZE = 224  # of images whose description has none
# Ops whose result holds the same integers, or more of the same kind.
_HANDS_ON = frozenset({
    "cast", "identity", "expand_dims", "squeeze", "reshape", "transpose", "slice_by_index", "slice_by_size", "concat",
    "stack", "split", "select", "greater_equal", "add", "tile", "maximum", "minimum", "clip",
})  # fmt: skip


def plausible_inputs(module: Evaluated, count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """``count`` samples for :meth:`MILModule.predict`, the same for the same seed and model.

    Floats are drawn from N(0, 1), or are the magnitudes of such numbers where the model gives NaN otherwise (of a
    logarithm, say); integers that are looked up in a table from its rows, others from 0 and 1; images
    are smooth colours with noise; what a suppression of boxes is set by is left to its stage. All of them fit the
    declared types and sizes. Shapes are the default ones of the description. Optional inputs that have a default
    are left out. Raises EvaluationError for an input of another kind, and for more than memory holds; ConfigError for a
    seed below 0.
    """
    if seed < 0:
        raise ConfigError(f"seed is {seed}; give 0 or more")
    random = np.random.default_rng(seed)
    sizes, declared = table_sizes(module), _declared(module)
    wanted = [
        _wanted(name, feature.type, declared.get(name), sizes.get(name))
        for name, feature in module.features.inputs.items()
        if name not in module.features.defaults
    ]
    _check_memory(wanted, count)
    samples = [{one.name: _made(one, random) for one in wanted} for _ in range(count)]
    if _all_finite(module.predict(samples[0])):
        return samples
    magnitudes = [_magnitudes(sample) for sample in samples]
    return magnitudes if _all_finite(module.predict(magnitudes[0])) else samples


def _all_finite(outputs: Mapping[str, Any]) -> bool:
    arrays = (value for value in outputs.values() if isinstance(value, np.ndarray) and value.dtype.kind == "f")
    return all(bool(np.isfinite(array).all()) for array in arrays)


def _magnitudes(sample: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.abs(array) if array.dtype.kind == "f" else array for name, array in sample.items()}


@dataclass(frozen=True)
class _Wanted:
    """An input to make up. ``dtype``: that the array gets; ``limit``: integers are drawn below it, None for numbers
    from N(0, 1); ``image``: for a picture, whose shape has one channel or three at its end."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    limit: int | None = None
    image: bool = False


def _declared(module: Evaluated) -> dict[str, MIL.ValueType]:
    """Types of inputs as the programs have them."""
    modules = module.modules.values() if isinstance(module, Pipeline) else [module]
    return {name: kind for one in modules for name, kind in one.function.types.items()}


def _wanted(name: str, kind: FeatureTypes.FeatureType, declared: MIL.ValueType | None, rows: int | None) -> _Wanted:
    """``rows``: of the table that an input is looked up in, None for others."""
    which = kind.WhichOneof("Type")
    if which == "imageType":
        height, width = default_size(kind.imageType)
        channels = 1 if kind.imageType.colorSpace in GRAYSCALES else 3
        return _Wanted(name, (height, width, channels), np.dtype(np.uint8), image=True)
    if which in ("doubleType", "int64Type"):
        whole = which == "int64Type"
        return _Wanted(name, (), np.dtype(np.int64 if whole else np.float64), _DEFAULT_INTEGERS if whole else None)
    is_tensor = declared is not None and declared.WhichOneof("type") == "tensorType"
    if which == "multiArrayType":
        shape = default_shape(kind.multiArrayType)
        integers = kind.multiArrayType.dataType in _INTEGERS
    elif declared is not None and is_tensor and which is None:  # a function without a description
        shape, integers = tensor_shape(declared), False
    else:
        raise EvaluationError(f"input {name!r} is a {which}, and none can be made up; give --inputs")
    held = type_name(declared.tensorType.dataType) if declared is not None and is_tensor else "int32"
    if integers or (is_tensor and not held.startswith("fp")):
        dtype = np.dtype("int32" if held.startswith("fp") else held)
        most = 1 if dtype.kind == "b" else np.iinfo(dtype).max
        return _Wanted(name, shape, dtype, min(_DEFAULT_INTEGERS if rows is None else rows, most + 1))
    return _Wanted(name, shape, np.dtype(np.float32), None if rows is None else min(rows, _COUNTED.get(held, rows)))


def _check_memory(wanted: Sequence[_Wanted], count: int) -> None:
    # Numbers are drawn in float64, a sample at a time.
    drawn = sum(math.prod(one.shape) for one in wanted) * 8
    kept = sum(math.prod(one.shape) * one.dtype.itemsize for one in wanted) * count
    try:
        claim_bytes(drawn + kept)
    except MemoryError as error:
        told = ", ".join(f"{one.name} {list(one.shape)}" for one in wanted)
        raise EvaluationError(
            f"{format_count(count, 'sample')} of inputs ({told}) cannot be made up: {one_line(error)}; "
            "ask for fewer, or give samples"
        ) from error


def _made(wanted: _Wanted, random: np.random.Generator) -> np.ndarray:
    if wanted.image:
        return _image(wanted, random)
    drawn = (
        random.standard_normal(wanted.shape) if wanted.limit is None else random.integers(0, wanted.limit, wanted.shape)
    )
    return np.asarray(drawn, wanted.dtype)


def default_shape(array: FeatureTypes.ArrayFeatureType) -> tuple[int, ...]:
    """The shape of the description, which flexible inputs have as a default; the first or the least they may have where
    they may not have that."""
    shape = tuple(max(1, int(size)) for size in array.shape)
    if shape and not shape_refusal(shape, array):
        return shape
    if array.WhichOneof("ShapeFlexibility") == "enumeratedShapes" and array.enumeratedShapes.shapes:
        return tuple(array.enumeratedShapes.shapes[0].shape)
    return tuple(max(1, int(size.lowerBound)) for size in array.shapeRange.sizeRanges)


def default_size(image: FeatureTypes.ImageFeatureType) -> tuple[int, int]:
    """Height and width of the description; the first or the nearest it may have where it may not have that."""
    height, width = int(image.height) or _USUAL_SIZE, int(image.width) or _USUAL_SIZE
    if not size_refusal(height, width, image):
        return height, width
    if image.WhichOneof("SizeFlexibility") == "imageSizeRange":
        limits = image.imageSizeRange
        return _within(height, limits.heightRange), _within(width, limits.widthRange)
    first = image.enumeratedSizes.sizes[0]
    return int(first.height), int(first.width)


def _within(size: int, limits: FeatureTypes.SizeRange) -> int:
    """An upper limit below zero is none."""
    most = int(limits.upperBound)
    return max(int(limits.lowerBound), size if most < 0 else min(size, most))


def _image(wanted: _Wanted, random: np.random.Generator) -> np.ndarray:
    height, width, channels = wanted.shape
    coarse = torch.from_numpy(random.uniform(0, 255, (1, channels, 8, 8)))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0].permute(1, 2, 0).numpy()
    pixels = np.clip(smooth + random.normal(0, 8, smooth.shape), 0, 255).astype(wanted.dtype)
    return np.asarray(pixels[..., 0] if channels == 1 else pixels)


def table_sizes(module: Evaluated) -> dict[str, int]:
    """Of inputs that are looked up in tables: the rows of the smallest one, less what is added to the input first."""
    modules = module.modules.values() if isinstance(module, Pipeline) else [module]
    return {
        name: min(rows)
        for one in modules
        for name in one.function.types
        if (rows := _rows_looked_up(one, one.function.block, {name: 0}))
    }


def _rows_looked_up(module: MILModule, block: Block, carriers: dict[str, int]) -> list[int]:
    """Rows that may be asked for where ``gather`` takes indices from one of ``carriers``. These are slots, with what
    has been added to what they carry; they grow."""
    found = []
    for step in block.steps:
        if step.info.type in ("gather", "gather_along_axis"):
            table = next(reading.slots[0] for reading in step.readings if reading.name == "x")
            sizes = _axis_size(module, step, table)
            found += [max(1, size - offset) for offset in _carried(step, carriers, "indices") for size in sizes]
        elif step.info.type in _HANDS_ON and _carried(step, carriers):
            carriers.update(dict.fromkeys(step.outputs, _offset(module, step, carriers)))
    return found


def _carried(step: Step, carriers: Mapping[str, int], *parameters: str) -> list[int]:
    """What has been added to the carriers that a step reads, as these parameters or as any."""
    read = (reading.slots for reading in step.readings if not parameters or reading.name in parameters)
    return [carriers[slot] for slots in read for slot in slots if slot in carriers]


def _offset(module: MILModule, step: Step, carriers: Mapping[str, int]) -> int:
    """What has been added to the carriers in the result of a step."""
    if step.info.type == "select":  # negative indices have the size of the table added in the branch not taken
        return min(_carried(step, carriers, "a", "b") or _carried(step, carriers))
    return max(_carried(step, carriers)) + (_largest_addend(module, step) if step.info.type == "add" else 0)


def _largest_addend(module: MILModule, step: Step) -> int:
    """The largest number in the small constants that a step reads, 0 at least."""
    constants = (module.function.constants.get(slot) for reading in step.readings for slot in reading.slots)
    arrays = [constant.decode() for constant in constants if constant and math.prod(constant.shape) <= _SMALL]
    return max([0, *(math.ceil(array.max()) for array in arrays if array.size and np.isfinite(array).all())])


def _axis_size(module: MILModule, step: Step, table: str) -> list[int]:
    shape = module.shapes.get(table)
    return [] if not shape else [shape[step.fixed.get("axis", 0)]]
