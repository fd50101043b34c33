"""Small MIL programs for the tests of opset moves, and coremltools' own loader as their judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from coremltools.converters.mil.backend.mil.helper import create_tensor_value
from coremltools.converters.mil.backend.mil.load import MILProtoExporter
from coremltools.converters.mil.frontend.milproto.load import load_mil_proto
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import Program
from coremltools.proto import MIL_pb2 as MIL

from mil_palettize.program.opsets.move import Move, Opset, apply_move, parse_target, plan_move


def built(body: Callable, specs: list, target: str, weights: Path, function: str = "main") -> MIL.Program:
    """``body`` traced by coremltools' builder at ``target`` and serialized, its blobs below ``weights``."""
    opset = parse_target(target)
    program = mb.program(input_specs=specs, opset_version=opset_target(opset), function_name=function)(body)
    return MILProtoExporter(program, str(weights), opset.spec).export()


def opset_target(opset: Opset) -> object:
    """coremltools' enum member."""
    import coremltools as ct

    return ct.target(opset.spec)


def moved(program: MIL.Program, target: str) -> tuple[MIL.Program, Move]:
    """A moved copy; planning alone must change nothing."""
    before = program.SerializeToString(deterministic=True)
    move = plan_move(program, parse_target(target))
    assert program.SerializeToString(deterministic=True) == before
    after = MIL.Program()
    after.CopyFrom(program)
    apply_move(after, move)
    return after, move


def loaded(program: MIL.Program, weights: Path) -> Program:
    """The program as coremltools reads it, at the opset its functions state."""
    spec = max(parse_target(function.opset).spec for function in program.functions.values())
    return load_mil_proto(program, spec, str(weights))


def block_of(program: MIL.Program, function: str = "main") -> MIL.Block:
    """The one block of a function, under the opset it states."""
    found = program.functions[function]
    assert list(found.block_specializations) == [found.opset]
    return found.block_specializations[found.opset]


def op_named(block: MIL.Block, name: str) -> MIL.Operation:
    """The op whose first output is ``name``."""
    (op,) = [op for op in block.operations if op.outputs and op.outputs[0].name == name]
    return op


def with_inputs(program: MIL.Program, arrays: Mapping[str, np.ndarray]) -> MIL.Program:
    """A copy whose ``main`` has constants for inputs: coremltools' value inference then computes the rest."""
    frozen = MIL.Program()
    frozen.CopyFrom(program)
    function, block = frozen.functions["main"], block_of(frozen)
    consts = []
    for name, array in arrays.items():
        value = create_tensor_value(array)
        consts.append(MIL.Operation(type="const", attributes={"val": value}))
        consts[-1].outputs.add(name=name, type=value.type)
    operations = MIL.Block(operations=[*consts, *block.operations])
    inputs = MIL.Function(inputs=[item for item in function.inputs if item.name not in arrays])
    block.ClearField("operations")
    block.operations.extend(operations.operations)
    function.ClearField("inputs")
    function.inputs.extend(inputs.inputs)
    return frozen


def values_of(program: MIL.Program, weights: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every value of ``main`` that coremltools can infer when its inputs are ``arrays``."""
    main = loaded(with_inputs(program, arrays), weights).functions["main"]
    outputs = [output for op in main.operations for output in op.outputs]
    return {output.name: output.val for output in outputs if output.val is not None}


def unchanged(before: MIL.Program, after: MIL.Program, changed: set[str]) -> None:
    """Asserts that every op of ``main`` but ``changed`` (by first output) is the same message, in order."""
    kept = {op.outputs[0].name for op in block_of(before).operations} - changed
    old, new = (
        [op.SerializeToString(deterministic=True) for op in block_of(p).operations if op.outputs[0].name in kept]
        for p in (before, after)
    )
    assert old == new
    assert block_of(before).outputs == block_of(after).outputs
    assert before.functions["main"].inputs == after.functions["main"].inputs
