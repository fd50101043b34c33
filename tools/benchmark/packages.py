"""The benchmark's packages, written message by message for iOS18: a chain of ``linear`` ops without biases.

Weights are drawn one at a time and streamed, so that a package of any size can be made in little memory.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from coremltools.proto import FeatureTypes_pb2, Model_pb2

from mil_palettize.package.blob import BlobWriter
from mil_palettize.program.values import BLOB_TYPES, MIL, MIL_TYPES, blob_value, string_value, tensor_type
from tools.benchmark.layouts import WEIGHT_FILE, Layout, Shape, weight_file

OPSET, SPECIFICATION = "CoreML8", 9  # iOS18, the first with tables for groups
ROOT_ID = "7EB69391-53BD-4281-BFA1-831180579ABC"
WEIGHTS_ID = "C784FB56-1BA8-4A0E-AC2A-F0388FE1A2DB"
_ARRAYS = FeatureTypes_pb2.ArrayFeatureType


def write_package(path: Path, layout: Layout, seed: int = 0) -> None:
    """A new package at ``path``; its weights are N(0, 0.02)."""
    weights = weight_file(path)
    weights.parent.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    offsets = []
    with BlobWriter(weights) as writer:
        for shape in layout.shapes:
            array = (generator.standard_normal(shape, np.float32) * np.float32(0.02)).astype(layout.dtype)
            offsets.append(writer.append(BLOB_TYPES[MIL_TYPES[array.dtype]][0], array))
    model = weights.parent.parent / "model.mlmodel"
    model.write_bytes(_model(layout, offsets).SerializeToString(deterministic=True))
    (path / "Manifest.json").write_text(json.dumps(_manifest(), indent=4), encoding="utf-8")


def _model(layout: Layout, offsets: Sequence[int]) -> Model_pb2.Model:
    data_type = MIL_TYPES[np.dtype(layout.dtype)]
    first, last = layout.shapes[0][1], layout.shapes[-1][0]
    block = MIL.Block()
    value = "x"
    for number, (shape, offset) in enumerate(zip(layout.shapes, offsets, strict=True)):
        weight, output = f"weight_{number}", f"linear_{number}"
        block.operations.append(_const(weight, shape, offset, data_type))
        block.operations.append(_linear(output, value, weight, tensor_type((1, shape[0]), data_type)))
        value = output
    block.outputs.append(value)
    function = MIL.Function(opset=OPSET, block_specializations={OPSET: block})
    function.inputs.add(name="x", type=tensor_type((1, first), data_type))
    model = Model_pb2.Model(specificationVersion=SPECIFICATION)
    model.mlProgram.CopyFrom(MIL.Program(version=1, functions={"main": function}))
    _describe(model.description.input.add(name="x"), first, layout.dtype)
    _describe(model.description.output.add(name=value), last, layout.dtype)
    return model


def _const(name: str, shape: Shape, offset: int, data_type: int) -> MIL.Operation:
    stored = blob_value(f"@model_path/{WEIGHT_FILE}", offset, shape, data_type)
    made = MIL.Operation(type="const", attributes={"name": string_value(name), "val": stored})
    made.outputs.add(name=name, type=stored.type)
    return made


def _linear(name: str, x: str, weight: str, kind: MIL.ValueType) -> MIL.Operation:
    made = MIL.Operation(type="linear", attributes={"name": string_value(name)})
    made.inputs["x"].arguments.add(name=x)
    made.inputs["weight"].arguments.add(name=weight)
    made.outputs.add(name=name, type=kind)
    return made


def _describe(feature: Any, size: int, dtype: str) -> None:
    feature.type.multiArrayType.shape.extend([1, size])
    feature.type.multiArrayType.dataType = _ARRAYS.ArrayDataType.Value(dtype.upper())


def _manifest() -> dict[str, Any]:
    """Of a model and its weights; format: coremltools ``modelpackage/src/ModelPackage.cpp``, version 1.0.0."""
    items = {ROOT_ID: ("model.mlmodel", "Model Specification"), WEIGHTS_ID: ("weights", "Model Weights")}
    return {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": {
            identifier: {
                "author": "com.apple.CoreML",
                "description": f"CoreML {what}",
                "name": name,
                "path": f"com.apple.CoreML/{name}",
            }
            for identifier, (name, what) in items.items()
        },
        "rootModelIdentifier": ROOT_ID,
    }
