"""Inputs made up from a model's description: seeded noise of the right kind, token ids that exist, images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from mil_palettize.errors import ConfigError, EvaluationError
from mil_palettize.program.messages import FeatureTypes
from mil_palettize.text import format_bytes
from mil_palettize.torch.evaluator.model_pipeline import Evaluated, Pipeline
from mil_palettize.torch.evaluator.module import MILModule
from mil_palettize.torch.evaluator.program import Block, Step
from mil_palettize.torch.features import GRAYSCALES

_MOST_BYTES = 4 << 30  # of all samples, which are made before the first is run
_DEFAULT_INTEGERS = 2  # 0 and 1: flags, masks and lengths nobody knows more of
_SMALL = 1 << 16  # elements of constants that are looked at: positions, not weights
_INT32 = FeatureTypes.ArrayFeatureType.INT32
# Ops whose result holds the same integers, or more of the same kind.
_HANDS_ON = frozenset({
    "cast", "identity", "expand_dims", "squeeze", "reshape", "transpose", "slice_by_index", "slice_by_size", "concat",
    "stack", "split", "select", "greater_equal", "add", "tile", "maximum", "minimum", "clip",
})  # fmt: skip


def plausible_inputs(module: Evaluated, count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """``count`` samples for :meth:`MILModule.predict`, the same for the same seed and model.

    Floats are drawn from N(0, 1), or are the magnitudes of such numbers where the model gives NaN otherwise (of a
    logarithm, say); integers that are looked up in a table from its rows, others from 0 and 1; images
    are smooth colours with noise. Shapes are the default ones of the description. Optional inputs that have a default
    are left out. Raises EvaluationError for an input of another kind, ConfigError for a seed below 0.
    """
    if seed < 0:
        raise ConfigError(f"seed is {seed}; give 0 or more")
    random = np.random.default_rng(seed)
    sizes = table_sizes(module)
    required = {n: f for n, f in module.features.inputs.items() if n not in module.features.defaults}
    first = {name: _made(name, kind.type, sizes, random) for name, kind in required.items()}
    needed = count * sum(array.nbytes for array in first.values())
    if needed > _MOST_BYTES:
        most = format_bytes(_MOST_BYTES)
        raise ConfigError(f"{count} samples take {format_bytes(needed)}, and {most} may be made up; ask for fewer")
    more = [{name: _made(name, kind.type, sizes, random) for name, kind in required.items()} for _ in range(count - 1)]
    samples = [first, *more]
    return samples if _all_finite(module.predict(samples[0])) else [_magnitudes(sample) for sample in samples]


def _all_finite(outputs: Mapping[str, Any]) -> bool:
    arrays = (value for value in outputs.values() if isinstance(value, np.ndarray) and value.dtype.kind == "f")
    return all(bool(np.isfinite(array).all()) for array in arrays)


def _magnitudes(sample: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.abs(array) if array.dtype.kind == "f" else array for name, array in sample.items()}


def _made(
    name: str, kind: FeatureTypes.FeatureType, sizes: Mapping[str, int], random: np.random.Generator
) -> np.ndarray:
    which = kind.WhichOneof("Type")
    if which == "imageType":
        return _image(kind.imageType, random)
    if which != "multiArrayType":
        raise EvaluationError(f"input {name!r} is a {which}, and none can be made up; give --inputs")
    shape = default_shape(kind.multiArrayType)
    if kind.multiArrayType.dataType == _INT32:
        return random.integers(0, sizes.get(name, _DEFAULT_INTEGERS), shape).astype(np.int32)
    drawn = random.integers(0, sizes[name], shape) if name in sizes else random.standard_normal(shape)
    return np.asarray(drawn, np.float32)


def default_shape(array: FeatureTypes.ArrayFeatureType) -> tuple[int, ...]:
    """The shape of the description, which flexible inputs have as a default; else the least they may have."""
    if array.shape:
        return tuple(max(1, int(size)) for size in array.shape)
    if array.WhichOneof("ShapeFlexibility") == "enumeratedShapes":
        return tuple(array.enumeratedShapes.shapes[0].shape)
    return tuple(max(1, int(size.lowerBound)) for size in array.shapeRange.sizeRanges)


def _image(image: FeatureTypes.ImageFeatureType, random: np.random.Generator) -> np.ndarray:
    height, width = int(image.height) or 224, int(image.width) or 224
    channels = 1 if image.colorSpace in GRAYSCALES else 3
    coarse = torch.from_numpy(random.uniform(0, 255, (1, channels, 8, 8)))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0].permute(1, 2, 0).numpy()
    pixels = np.clip(smooth + random.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)
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
