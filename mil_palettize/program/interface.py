"""What a model takes and gives, as its description says: inputs, outputs and states of each function."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mil_palettize.program.block_paths import specializations
from mil_palettize.program.described_sizes import shape_refusal, size_refusal
from mil_palettize.program.look_ups import rows_looked_up
from mil_palettize.program.messages import MIL, CoreML, FeatureTypes
from mil_palettize.program.model import Model
from mil_palettize.program.scopes import build_scope
from mil_palettize.program.stages import Stage

_ARRAYS = FeatureTypes.ArrayFeatureType.ArrayDataType
_COLORS = FeatureTypes.ImageFeatureType.ColorSpace
_SCALARS = {"int64Type": "int64", "doubleType": "float64", "stringType": "string"}
_NO_SIZE = -1


@dataclass(frozen=True)
class Feature:
    """One input, output or state. ``role``: which of these; ``dtype``: numpy's name, or what else it is; ``shape``: in
    words, "" for a single value, or where nothing says it; ``values``: the range that is known, "" for any; ``given``:
    for an input, what an ``.npz`` file holds under its name, "" for what none can; ``optional``: whether it may be left
    out."""

    function: str
    role: str
    name: str
    dtype: str
    shape: str
    values: str = ""
    given: str = ""
    optional: bool = False


def interface(model: Model) -> list[Feature]:
    """Of each function its inputs, states and outputs, in the order of the description. Those of a pipeline are the
    pipeline's own, of the function ""."""
    stages = model.stages
    if [stage.label for stage in stages] != [""]:
        return list(_features(model.spec.description, "", {}))
    found: list[Feature] = []
    for name, function in sorted(stages[0].program.functions.items()):
        found += _features(_described(stages[0], name), name, _rows(function))
    return found


def _described(stage: Stage, name: str) -> Any:
    """The description of a function that has one of its own, else the model's."""
    return next((f for f in stage.model.description.functions if f.name == name), stage.model.description)


def _features(described: Any, function: str, rows: dict[str, int]) -> Iterator[Feature]:
    for role, features in (("input", described.input), ("state", described.state), ("output", described.output)):
        for feature in features:
            yield _feature(feature, role, function, rows.get(feature.name) if role == "input" else None)


def _feature(feature: CoreML.FeatureDescription, role: str, function: str, rows: int | None) -> Feature:
    dtype, shape, values, given = _told(feature.type, rows)
    return Feature(
        function, role, feature.name, dtype, shape, values, given if role == "input" else "", feature.type.isOptional
    )


def _told(kind: FeatureTypes.FeatureType, rows: int | None) -> tuple[str, str, str, str]:
    """dtype, shape, values, and what is given for it. ``rows``: of the table that it is looked up in."""
    which = kind.WhichOneof("Type")
    if which == "stateType":
        return _told_array(kind.stateType.arrayType, None)
    if which == "multiArrayType":
        return _told_array(kind.multiArrayType, rows)
    if which == "imageType":
        return _told_image(kind.imageType)
    if which in _SCALARS:
        return _SCALARS[which], "", "", "" if which == "stringType" else f"a number, {_SCALARS[which]}"
    return (which or "").removesuffix("Type") or "not described", "", "", ""


def _told_array(array: FeatureTypes.ArrayFeatureType, rows: int | None) -> tuple[str, str, str, str]:
    name = _ARRAYS.Name(array.dataType) if array.dataType in _ARRAYS.values() else "FLOAT32"
    dtype = {"DOUBLE": "float64"}.get(name, name.lower())
    fixed = str([int(size) for size in array.shape]) if array.shape else ""
    shape = shape_refusal((_NO_SIZE,), array) or fixed
    values = "" if rows is None else f"0..{rows - 1}"
    return dtype, shape, values, f"{dtype} array {shape}"


def _told_image(image: FeatureTypes.ImageFeatureType) -> tuple[str, str, str, str]:
    space = _COLORS.Name(image.colorSpace) if image.colorSpace in _COLORS.values() else "image"
    size = size_refusal(_NO_SIZE, _NO_SIZE, image) or "any size"
    floats = space == "GRAYSCALE_FLOAT16"
    channels = "" if space.startswith("GRAYSCALE") else ", 3"
    given = f"{'float16' if floats else 'uint8'} array [height, width{channels}]"
    return f"image, {space}", f"{size} (width×height)", "" if floats else "0..255", given


def _rows(function: MIL.Function) -> dict[str, int]:
    """Of inputs that are looked up in constant tables: rows of the smallest one."""
    found: dict[str, int] = {}
    names = {value.name for value in function.inputs}
    for _, path, block in specializations(function):
        for node in build_scope(function, block, path).nodes:
            rows = rows_looked_up(node) if node.op is None and node.name in names and not node.level else None
            if rows is not None:
                found[node.name] = min(rows, found.get(node.name, rows))
    return found
