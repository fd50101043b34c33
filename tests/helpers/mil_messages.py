"""MIL programs written op by op, for what no converter makes: odd scopes, inline values, several specializations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from coremltools.proto import MIL_pb2 as MIL
from coremltools.proto import Model_pb2
from handmade import manifest

from mil_palettize.planning.plan import Decision, Plan, make_plan
from mil_palettize.program.stages import Stage
from mil_palettize.program.survey import Survey, survey
from mil_palettize.program.weight import Weight
from mil_palettize.request.config import OpPalettizerConfig, OptimizationConfig
from mil_palettize.request.normalised import normalise

Shape = Sequence[int]
Argument = str | Sequence[str] | MIL.Value
_NUMPY = {"f2": "FLOAT16", "f4": "FLOAT32", "i4": "INT32", "b1": "BOOL", "i2": "INT16"}


def kind(shape: Shape, dtype: str = "FLOAT16") -> MIL.ValueType:
    """A tensor type; a size of -1 is unknown."""
    made = MIL.ValueType()
    made.tensorType.dataType = MIL.DataType.Value(dtype)
    made.tensorType.rank = len(shape)
    for size in shape:
        dimension = made.tensorType.dimensions.add()
        if size < 0:
            dimension.unknown.variadic = False
        else:
            dimension.constant.size = size
    return made


def stored(shape: Shape, dtype: str = "FLOAT16", offset: int = 64) -> MIL.Value:
    """A value said to lie in a weight file; planning never opens it."""
    value = MIL.Value(type=kind(shape, dtype))
    value.blobFileValue.fileName = "@model_path/weights/weight.bin"
    value.blobFileValue.offset = offset
    return value


def value(content: object) -> MIL.Value:
    """An immediate value: an array, number, bool, string, or (nested) list of them."""
    if isinstance(content, str):
        made = MIL.Value(type=kind((), "STRING"))
        made.immediateValue.tensor.strings.values.append(content)
        return made
    array = np.asarray(content)
    array = array.astype(np.int32) if array.dtype == np.int64 else array
    array = array.astype(np.float16) if array.dtype == np.float64 else array
    code = array.dtype.str[1:]
    made = MIL.Value(type=kind(array.shape, _NUMPY[code]))
    tensor = made.immediateValue.tensor
    if code in ("f2", "i2"):
        tensor.bytes.values = array.tobytes()
    else:
        field = {"f4": tensor.floats, "i4": tensor.ints, "b1": tensor.bools}[code]
        field.SetInParent()
        field.values.extend(array.reshape(-1).tolist())
    return made


def const(
    name: str, content: object = None, *, shape: Shape = (), dtype: str = "FLOAT16", offset: int = 64
) -> MIL.Operation:
    """A ``const`` op: of ``content``, or of a ``shape`` whose values do not matter."""
    val = stored(shape, dtype, offset) if content is None else value(content)
    made = MIL.Operation(type="const", attributes={"name": value(name), "val": val})
    made.outputs.add(name=name, type=val.type)
    return made


def op(
    op_type: str,
    name: str,
    inputs: Mapping[str, Argument] | None = None,
    *,
    shape: Shape | None = (1, 1),
    outputs: Sequence[tuple[str, Shape]] | None = None,
    blocks: Sequence[MIL.Block] = (),
    attributes: Mapping[str, MIL.Value] | None = None,
) -> MIL.Operation:
    """Any op. Inputs are names, lists of names, or values bound in place; outputs are ``name`` of ``shape``, or
    the ``outputs`` given."""
    made = MIL.Operation(type=op_type, attributes={"name": value(name), **(attributes or {})}, blocks=blocks)
    for parameter, argument in (inputs or {}).items():
        made.inputs[parameter].SetInParent()
        for item in [argument] if isinstance(argument, str | MIL.Value) else argument:
            binding = made.inputs[parameter].arguments.add()
            if isinstance(item, str):
                binding.name = item
            else:
                binding.value.CopyFrom(item)
    for output, size in outputs if outputs is not None else [(name, shape)]:
        made.outputs.add(name=output, type=kind(size))
    return made


def reading(name: str, output: str = "y") -> MIL.Operation:
    """An op that reads ``name`` as its weight."""
    return op("linear", output, {"x": "x", "weight": name}, shape=(1, 16))


def block(
    *operations: MIL.Operation, inputs: Sequence[tuple[str, Shape]] = (), outputs: Sequence[str] = ()
) -> MIL.Block:
    made = MIL.Block(operations=operations, outputs=outputs)
    for name, shape in inputs:
        made.inputs.add(name=name, type=kind(shape))
    return made


def function(blocks: Mapping[str, MIL.Block], inputs: Sequence[tuple[str, Shape]] = (("x", (1, 64)),)) -> MIL.Function:
    """A function of one block for each opset; it states the last opset."""
    made = MIL.Function(opset=list(blocks)[-1], block_specializations=blocks)
    for name, shape in inputs:
        made.inputs.add(name=name, type=kind(shape))
    return made


def program(*operations: MIL.Operation, opset: str = "CoreML8", outputs: Sequence[str] = ()) -> MIL.Program:
    """A program of the one function ``main``."""
    body = block(*operations, outputs=outputs)
    return MIL.Program(version=1, functions={"main": function({opset: body})})


def surveyed(made: MIL.Program, label: str = "") -> Survey:
    """What the library finds in a program."""
    model = Model_pb2.Model(specificationVersion=9, mlProgram=made)
    found = Survey()
    found.add(survey(Stage(label, model)))
    return found


def weights(made: MIL.Program) -> dict[str, Weight]:
    """Every constant by name, which must not repeat."""
    sites = surveyed(made).sites
    found = {site.weight.name: site.weight for site in sites}
    assert len(found) == len(sites)
    return found


def planned(
    made: MIL.Program | Survey,
    config: OptimizationConfig | None = None,
    *,
    select: str = "weights",
    strict: bool = False,
    opset_after: Mapping[str, str] | None = None,
    importance: Mapping[str, object] | None = None,
    **options: object,
) -> Plan:
    """A plan; without ``config``, ``options`` are of the global ``OpPalettizerConfig``."""
    found = made if isinstance(made, Survey) else surveyed(made)
    config = config or OptimizationConfig(global_config=OpPalettizerConfig(**options))
    return make_plan(
        [site.weight for site in found.sites],
        normalise(config, importance=importance),
        select=select,
        strict=strict,
        opset_after=dict(opset_after or {}),
        op_types=found.op_types,
        op_names=found.op_names,
    )


def decisions(plan: Plan) -> dict[str, Decision]:
    """By the weight's name, which must not repeat."""
    found = {d.weight.name: d for d in plan.decisions}
    assert len(found) == len(plan.decisions)
    return found


def write_package(folder: Path, made: MIL.Program, specification: int = 9) -> Path:
    """A package of a program all whose values are immediate."""
    model = Model_pb2.Model(specificationVersion=specification, mlProgram=made)
    inner = folder / "Data" / "com.apple.CoreML"
    inner.mkdir(parents=True)
    content = manifest()
    content["itemInfoEntries"] = {
        key: item for key, item in content["itemInfoEntries"].items() if item["name"] == "model.mlmodel"
    }
    (folder / "Manifest.json").write_text(json.dumps(content))
    (inner / "model.mlmodel").write_bytes(model.SerializeToString(deterministic=True))
    return folder
