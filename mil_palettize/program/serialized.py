"""A Core ML model as serialized: its ML Programs, their constants, and everything that points into weight files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

from google.protobuf.message import DecodeError

from mil_palettize.errors import PackageError
from mil_palettize.program.messages import CoreML
from mil_palettize.program.scopes import Node, build_scope, is_constant_op, op_name
from mil_palettize.program.trace import consumers
from mil_palettize.program.values import BLOB_TYPES, MIL, NUMPY_TYPES, static_shape, type_name
from mil_palettize.program.weight import Consumer, Weight
from mil_palettize.text import format_bytes

_PIPELINES = ("pipeline", "pipelineClassifier", "pipelineRegressor")
_NEURAL_NETWORKS = ("neuralNetwork", "neuralNetworkClassifier", "neuralNetworkRegressor")
# Of a constant op: what says how its data is to be read.
_NO_DATA = ("name", "shape", "axis", "vector_axis", "output_dtype")
_FLOATS = tuple(MIL.DataType.Value(n) for n in ("FLOAT16", "FLOAT32"))
_NIBBLES = tuple(MIL.DataType.Value(n) for n in ("INT4", "UINT4"))
_INTEGERS = (*(MIL.DataType.Value(n) for n in ("INT8", "UINT8")), *_NIBBLES)
# Op type -> what it is to joint compression, the input that holds the values, and their types.
_JOINT = {
    "constexpr_sparse_to_dense": ("sparse", "nonzero_data", _FLOATS),
    "constexpr_blockwise_shift_scale": ("scaled", "data", _INTEGERS),
}


@dataclass(frozen=True)
class Stage:
    """One ML Program of a model: the model itself (``label`` ""), or a stage of a pipeline."""

    label: str
    model: CoreML.Model

    @property
    def program(self) -> MIL.Program:
        return self.model.mlProgram

    def function_label(self, name: str) -> str:
        return f"{self.label}/{name}" if self.label else name


@dataclass(frozen=True, eq=False)
class Site:
    """A constant where it stands: ``op`` is the message to replace, ``value`` holds or points at its data (of a
    compressed constant what joint compression takes, or nothing). ``node``: None for a tensor bound to its op in
    place."""

    weight: Weight
    op: MIL.Operation
    value: MIL.Value
    node: Node | None = None


def parse_model(raw: bytes, source: str) -> CoreML.Model:
    """The ``Model`` message of a package's root model. Raises PackageError naming ``source``."""
    model = CoreML.Model()
    try:
        model.ParseFromString(raw)
    except DecodeError as error:
        raise PackageError(f"{source} is not a Core ML model specification ({error}); is the file whole?") from error
    kind = model.WhichOneof("Type")
    if kind in _NEURAL_NETWORKS:
        raise PackageError(
            f"{source} is a neural network, the format before ML Programs; palettes live in ML Programs only: "
            'convert the original again with coremltools convert_to="mlprogram"'
        )
    if not stages(model):
        raise PackageError(f"{source} holds {kind or 'no model'} and no ML Program; there is nothing to palettize")
    return model


def stages(model: CoreML.Model, label: str = "") -> list[Stage]:
    """Every ML Program of ``model``, pipelines (also nested) opened; other stages are left out."""
    if model.WhichOneof("Type") == "mlProgram":
        return [Stage(label, model)]
    return [
        stage for name, inner in pipeline_models(model) for stage in stages(inner, f"{label}/{name}" if label else name)
    ]


def pipeline_models(model: CoreML.Model) -> list[tuple[str, CoreML.Model]]:
    """(name, model) of a pipeline's stages, numbered where they have no names; [] for any other model."""
    kind = model.WhichOneof("Type")
    if kind not in _PIPELINES:
        return []
    pipeline = model.pipeline if kind == "pipeline" else getattr(model, kind).pipeline
    names = [name or str(i) for i, name in enumerate(pipeline.names)]
    names += [str(i) for i in range(len(names), len(pipeline.models))]
    return list(zip(names, pipeline.models, strict=False))


def other_stages(model: CoreML.Model, label: str = "") -> list[str]:
    """A sentence about every stage of a pipeline that is no ML Program, pipelines in it opened."""
    kind = model.WhichOneof("Type")
    if kind in _PIPELINES:
        inner = pipeline_models(model)
        return [told for name, stage in inner for told in other_stages(stage, f"{label}/{name}" if label else name)]
    if kind == "mlProgram" or not label:
        return []
    size = format_bytes(model.ByteSize())
    return [f"stage {label!r} of the pipeline is no ML Program but a {kind} of {size}, and stays as it is"]


@dataclass
class Survey:
    """What a stage's functions hold: constants in program order, and the ops' types and names by function."""

    sites: list[Site] = field(default_factory=list)
    op_types: set[str] = field(default_factory=set)
    op_names: set[tuple[str, str]] = field(default_factory=set)

    def add(self, other: Survey) -> None:
        self.sites += other.sites
        self.op_types |= other.op_types
        self.op_names |= other.op_names


def survey(stage: Stage, first: int = 0) -> Survey:
    """Every constant of the stage's functions and nested blocks, and what else planning asks about. ``first``: position
    of its first constant in the model."""
    found, position = Survey(), count(first)
    for name, function in sorted(stage.program.functions.items()):
        label = stage.function_label(name)
        for opset, block in sorted(function.block_specializations.items()):
            scope = build_scope(function, block)
            sites = (_site(node, label, opset, position) for node in scope.constants)
            found.sites += [site for site in sites if site is not None]
            for op in scope.ops:
                found.op_types.add(op.type)
                found.op_names.add((label, op_name(op)))
                found.sites += _inline_sites(op, label, opset, position)
    return found


def _site(node: Node, function: str, opset: str, position: Iterator[int]) -> Site | None:
    assert node.op is not None
    shape = node.shape
    if shape is None or node.op.outputs[0].name != node.name:
        return None
    joint, value = _joint(node)
    if not joint and "val" in node.op.attributes:
        value = node.op.attributes["val"]
    data_type = node.type.tensorType.dataType
    weight = Weight(
        name=node.name,
        op_name=op_name(node.op),
        function=function,
        shape=shape,
        dtype=type_name(data_type),
        nbytes=stored_nbytes(node.op),
        opset=opset,
        consumers=consumers(node),
        storage=_storage(value),
        form=node.op.type,
        obstacle=_obstacle(node, value, data_type),
        position=next(position),
        joint=joint,
        stored=math.prod(static_shape(value.type) or ()) if joint else math.prod(shape),
        stored_nbytes=value_nbytes(value),
        blocks=_scale_shape(node.op) if joint == "scaled" else (),
    )
    return Site(weight, node.op, value, node)


def _joint(node: Node) -> tuple[str, MIL.Value]:
    """What of a compressed constant joint compression can palettize, and the value that holds it; ("", empty) when
    there is none: all parts stand in the op (iOS18), and other ops than constants read the result."""
    assert node.op is not None
    nothing = "", MIL.Value()
    if node.op.type not in _JOINT or len(node.op.outputs) != 1 or _place_obstacle(node):
        return nothing
    joint, main, types = _JOINT[node.op.type]
    bound = {name: argument.arguments for name, argument in node.op.inputs.items()}
    if main not in bound or any(len(b) != 1 or b[0].WhichOneof("binding") != "value" for b in bound.values()):
        return nothing
    value = bound[main][0].value
    data_type = value.type.tensorType.dataType
    if data_type not in types or static_shape(value.type) is None or node.type.tensorType.dataType not in _FLOATS:
        return nothing
    if data_type in _NIBBLES and "offset" in bound:  # an offset has the type of the data, and no table has that one
        return nothing
    return joint, value


def _scale_shape(op: MIL.Operation) -> tuple[int, ...]:
    return static_shape(op.inputs["scale"].arguments[0].value.type) or ()


def _place_obstacle(node: Node) -> str:
    """What in the constant's place rules a palette out."""
    if node.is_block_output:
        return "is an output of its block, which a compressed constant cannot be"
    feeds = next((use.op.type for use in node.uses if use.op.type.startswith("constexpr_")), None)
    return f"feeds {feeds}" if feeds else ""


def _storage(value: MIL.Value) -> tuple[str, int] | None:
    if value.WhichOneof("value") != "blobFileValue":
        return None
    return value.blobFileValue.fileName, int(value.blobFileValue.offset)


def _obstacle(node: Node, value: MIL.Value, data_type: int) -> str:
    """What in the constant's own form rules a palette out, "" when nothing does."""
    assert node.op is not None
    if node.op.type != "const":
        return f"already compressed ({node.op.type})"
    if node.op.blocks or node.op.inputs or len(node.op.outputs) != 1:
        return "has inputs, blocks or several outputs, which constants have not"
    unknown = sorted(set(node.op.attributes) - {"name", "val"})
    if unknown:
        return f"has attributes that a palette would lose ({', '.join(unknown)})"
    if data_type not in _FLOATS:
        return f"{type_name(data_type)} values; palettes hold fp16 and fp32"
    if value.type.tensorType.dataType != data_type or static_shape(value.type) != node.shape:
        return "its value's type differs from its output's"
    return _place_obstacle(node)


def stored_nbytes(op: MIL.Operation) -> int:
    """Bytes the constant's data takes: for a compressed one, of all parts stored with it."""
    values = [v for name, v in op.attributes.items() if name not in _NO_DATA]
    arguments = (a for name, a in op.inputs.items() if name not in _NO_DATA)
    values += [b.value for a in arguments for b in a.arguments if b.WhichOneof("binding") == "value"]
    return sum(value_nbytes(value) for value in values)


def value_nbytes(value: MIL.Value) -> int:
    """Bytes of a tensor value's data by its type, 0 for anything else."""
    shape = static_shape(value.type)
    if shape is None:
        return 0
    data_type = value.type.tensorType.dataType
    if data_type in BLOB_TYPES:
        bits = BLOB_TYPES[data_type][1]
    else:
        bits = NUMPY_TYPES[data_type].itemsize * 8 if data_type in NUMPY_TYPES else 0
    count = 1
    for size in shape:
        count *= size
    return (count * bits + 7) // 8


def _inline_sites(op: MIL.Operation, function: str, opset: str, position: Iterator[int]) -> list[Site]:
    """Tensors bound to inputs of ``op`` in place, without a const op: reported, never rewritten."""
    if is_constant_op(op.type):
        return []
    found = []
    for input_name, argument in sorted(op.inputs.items()):
        for binding in argument.arguments:
            shape = static_shape(binding.value.type) if binding.WhichOneof("binding") == "value" else None
            if shape is None:
                continue
            name = f"{op_name(op)}.{input_name}"
            weight = Weight(
                name=name,
                op_name=name,  # it has no op of its own, and the one that reads it is its consumer
                function=function,
                shape=shape,
                dtype=type_name(binding.value.type.tensorType.dataType),
                nbytes=value_nbytes(binding.value),
                opset=opset,
                consumers=(Consumer(op.type, op_name(op), input_name, None),),
                storage=_storage(binding.value),
                form="inline",
                obstacle="is bound to its op in place, not by a const op",
                position=next(position),
            )
            found.append(Site(weight, op, binding.value))
    return found
