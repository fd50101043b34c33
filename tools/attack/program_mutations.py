"""Programs that parse and mean something else, or nothing: names, types, shapes, arguments, blocks, chains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from random import Random

from coremltools.proto import MIL_pb2 as MIL
from coremltools.proto import Model_pb2 as CoreML
from google.protobuf.message import DecodeError
from mutations import mutate

TYPES = (
    "FLOAT16", "FLOAT32", "FLOAT64", "BFLOAT16", "BOOL", "INT4", "INT8", "INT16", "INT32", "INT64", "UINT1", "UINT2",
    "UINT3", "UINT4", "UINT6", "UINT8", "UINT16", "UINT32", "STRING",
)  # fmt: skip
SIZES = (0, 1, 2, 3, 7, 8, 64, 65, 1 << 16, 1 << 31, 1 << 32, 1 << 40, 1 << 62, (1 << 63) - 1, (1 << 64) - 1)
CONSTANT_OPS = (
    "const", "constexpr_cast", "constexpr_lut_to_dense", "constexpr_affine_dequantize", "constexpr_sparse_to_dense",
    "constexpr_blockwise_shift_scale", "constexpr_lut_to_sparse", "constexpr_sparse_blockwise_shift_scale",
    "constexpr_unheard_of",
)  # fmt: skip
NUMBERS = (float("nan"), float("inf"), float("-inf"), -0.0, 65504.0, 3e38, 1e-45, -1.0)
DEPTHS = (1, 2, 3, 10, 25, 30, 31, 32, 33, 40, 44, 47, 48, 60)
LENGTHS = (1, 2, 5, 12, 20, 40, 200, 1200)
Mutator = Callable[[CoreML.Model, Random], None]


def change_program(model: CoreML.Model, random: Random) -> None:
    """One to three changes of any kind."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        with suppress(DecodeError):  # what a change before this one nests too deep cannot be copied any more
            if random.random() < 0.35:
                mutate(model, random)
            else:
                random.choice(MUTATORS)(model, random)


def grow_program(model: CoreML.Model, random: Random) -> None:
    """What small files can make a reader do too often or too deeply."""
    grow = random.choice((chain_constants, double_constants, nest_blocks, read_itself, repeat_ops, mutual_reading))
    with suppress(DecodeError):  # of blocks that are nested too deep already
        grow(model, random)


def _models(model: CoreML.Model) -> Iterator[CoreML.Model]:
    yield model
    for kind in ("pipeline", "pipelineClassifier", "pipelineRegressor"):
        if model.WhichOneof("Type") == kind:
            pipeline = model.pipeline if kind == "pipeline" else getattr(model, kind).pipeline
            for inner in pipeline.models:
                yield from _models(inner)


def _blocks(model: CoreML.Model) -> list[MIL.Block]:
    found: list[MIL.Block] = []
    for one in _models(model):
        if one.WhichOneof("Type") != "mlProgram":
            continue
        for _, function in sorted(one.mlProgram.functions.items()):
            found += [block for _, block in sorted(function.block_specializations.items())]
    for block in found:
        found += [inner for op in block.operations for inner in op.blocks]
    return found


def _ops(model: CoreML.Model) -> list[MIL.Operation]:
    return [op for block in _blocks(model) for op in block.operations]


def _values(op: MIL.Operation) -> list[MIL.Value]:
    values = [op.attributes[name] for name in sorted(op.attributes)]
    arguments = [argument for _, argument in sorted(op.inputs.items())]
    return values + [b.value for a in arguments for b in a.arguments if b.WhichOneof("binding") == "value"]


def _types(model: CoreML.Model) -> list[MIL.ValueType]:
    ops = _ops(model)
    return [output.type for op in ops for output in op.outputs] + [v.type for op in ops for v in _values(op)]


def swap_names(model: CoreML.Model, random: Random) -> None:
    outputs = [output for op in _ops(model) for output in op.outputs]
    if len(outputs) > 1:
        one, two = random.sample(outputs, 2)
        one.name, two.name = two.name, one.name


def rename_reading(model: CoreML.Model, random: Random) -> None:
    """An argument reads something else: another value, itself, what nothing makes, nothing."""
    ops = _ops(model)
    names = [output.name for op in ops for output in op.outputs]
    bindings = [b for op in ops for _, a in sorted(op.inputs.items()) for b in a.arguments]
    if bindings:
        random.choice(bindings).name = random.choice([*names, "nothing makes this", ""])


def change_type(model: CoreML.Model, random: Random) -> None:
    types = [t for t in _types(model) if t.WhichOneof("type") == "tensorType"]
    if types:
        random.choice(types).tensorType.dataType = MIL.DataType.Value(random.choice(TYPES))


def change_shape(model: CoreML.Model, random: Random) -> None:
    """One size, the order, the rank; of a value, an output or both."""
    ops = [op for op in _ops(model) if op.outputs]
    if not ops:
        return
    op = random.choice(ops)
    types = [op.outputs[0].type, *(value.type for value in _values(op))]
    types = types if random.random() < 0.4 else [random.choice(types)]
    sizes = [random.choice(SIZES) for _ in range(random.choice((1, 2, 2, 3, 4, 65, 70)))]
    how, place = random.random(), random.random()
    for value_type in types:
        tensor = value_type.tensorType
        if how < 0.4 and tensor.dimensions:
            tensor.dimensions[int(place * len(tensor.dimensions))].constant.size = sizes[0]
            continue
        told = sizes if how < 0.7 else [d.constant.size for d in tensor.dimensions][::-1]
        del tensor.dimensions[:]
        tensor.rank = len(told)
        for size in told:
            tensor.dimensions.add().constant.size = size


def change_arguments(model: CoreML.Model, random: Random) -> None:
    """Doubled, dropped, emptied, put under another name, moved to the attributes."""
    ops = [op for op in _ops(model) if op.inputs]
    constants = [op for op in ops if op.type.startswith("constexpr_")]
    if not ops:
        return
    op = random.choice(constants if constants and random.random() < 0.6 else ops)
    name = random.choice(sorted(op.inputs))
    how = random.randrange(5)
    if how == 0:
        op.inputs[name].arguments.extend(list(op.inputs[name].arguments))
    elif how == 1:
        del op.inputs[name]
    elif how == 2:
        del op.inputs[name].arguments[:]
        if random.random() < 0.5:
            op.inputs[name].arguments.add()
    elif how == 3:
        op.inputs[random.choice(("offset", "vector_axis", "mask", "val", "unheard_of"))].CopyFrom(op.inputs[name])
    elif op.inputs[name].arguments and op.inputs[name].arguments[0].WhichOneof("binding") == "value":
        op.attributes[name].CopyFrom(op.inputs[name].arguments[0].value)


def change_attributes(model: CoreML.Model, random: Random) -> None:
    """Dropped, exchanged between ops, held in the weight file."""
    ops = _ops(model)
    holders = [op for op in ops if op.attributes]
    if not holders:
        return
    op, other = random.choice(holders), random.choice(holders)
    name = random.choice(sorted(op.attributes))
    if random.random() < 0.3:
        del op.attributes[name]
        return
    if random.random() < 0.5:
        op.attributes[name].CopyFrom(other.attributes[random.choice(sorted(other.attributes))])
        return
    stored = [v for o in ops for v in _values(o) if v.WhichOneof("value") == "blobFileValue"]
    if stored:
        op.attributes[name].CopyFrom(random.choice(stored))


def change_numbers(model: CoreML.Model, random: Random) -> None:
    """NaN, infinities and other extremes in values that stand in the program."""
    values = [v for op in _ops(model) for v in _values(op) if v.WhichOneof("value") == "immediateValue"]
    tensors = [v.immediateValue.tensor for v in values if v.immediateValue.WhichOneof("value") == "tensor"]
    if not tensors:
        return
    tensor = random.choice(tensors)
    field = tensor.WhichOneof("value")
    if field == "bytes":
        patterns = (b"\xff\x7f", b"\x00\x7c", b"\x00\xfc", b"\xff\x7b", b"\x00\x80", b"\xff\xff")
        tensor.bytes.values = random.choice(patterns) * (len(tensor.bytes.values) // 2)
    elif field in ("floats", "doubles"):
        holder = getattr(tensor, field)
        if holder.values:
            holder.values[random.randrange(len(holder.values))] = random.choice(NUMBERS)
    elif field in ("ints", "longInts"):
        holder = getattr(tensor, field)
        if holder.values:
            holder.values[random.randrange(len(holder.values))] = random.choice((-(2**31), -1, 0, 1, 2**31 - 1))


def change_op_type(model: CoreML.Model, random: Random) -> None:
    ops = _ops(model)
    constants = [op for op in ops if op.type == "const" or op.type.startswith("constexpr_")]
    if constants:
        random.choice(constants).type = random.choice((*CONSTANT_OPS, "cast", "while_loop", "transpose", "concat"))


def drop_ops(model: CoreML.Model, random: Random) -> None:
    blocks = [block for block in _blocks(model) if block.operations]
    if blocks:
        block = random.choice(blocks)
        del block.operations[random.randrange(len(block.operations))]


def repeat_ops(model: CoreML.Model, random: Random) -> None:
    """The same op again, here or in another block, under the same names."""
    blocks = [block for block in _blocks(model) if block.operations]
    if not blocks:
        return
    op = MIL.Operation()
    op.CopyFrom(random.choice(random.choice(blocks).operations))
    for _ in range(random.choice((1, 1, 2, 300))):
        random.choice(blocks).operations.add().CopyFrom(op)


def shuffle_ops(model: CoreML.Model, random: Random) -> None:
    block = random.choice(_blocks(model) or [MIL.Block()])
    ops = [MIL.Operation.FromString(op.SerializeToString()) for op in block.operations]
    random.shuffle(ops)
    del block.operations[:]
    block.operations.extend(ops)


def nest_blocks(model: CoreML.Model, random: Random) -> None:
    """A block inside of a block inside of a block."""
    blocks = _blocks(model)
    if not blocks:
        return
    block = random.choice(blocks)
    for _ in range(random.choice(DEPTHS)):
        inner = MIL.Block()
        inner.operations.extend(block.operations)
        inner.outputs.extend(block.outputs)
        del block.operations[:]
        op = block.operations.add(type=random.choice(("cond", "while_loop", "unheard_of")))
        op.blocks.add().CopyFrom(inner)
        for number, name in enumerate(block.outputs):
            op.outputs.add(name=f"{name}_{number}")
        del block.outputs[:]
        block.outputs.extend(output.name for output in op.outputs)


def _last_constant(model: CoreML.Model, random: Random) -> tuple[MIL.Block, int] | None:
    """A block and the place after a constant of it."""
    places = [
        (block, number + 1)
        for block in _blocks(model)
        for number, op in enumerate(block.operations)
        if (op.type == "const" or op.type.startswith("constexpr_")) and op.outputs
    ]
    return random.choice(places) if places else None


def _insert(block: MIL.Block, at: int, ops: list[MIL.Operation]) -> None:
    after = [MIL.Operation.FromString(op.SerializePartialToString()) for op in block.operations[at:]]
    del block.operations[at:]
    block.operations.extend(ops)
    block.operations.extend(after)


def _grown(model: CoreML.Model, random: Random, kinds: tuple[tuple[str, tuple[str, ...]], ...]) -> None:
    place = _last_constant(model, random)
    if place is None:
        return
    block, at = place
    output = block.operations[at - 1].outputs[0]
    last, ops = output.name, []
    op_type, parameters = random.choice(kinds)
    for number in range(random.choice(LENGTHS)):
        op = MIL.Operation(type=op_type)
        for parameter in parameters:
            op.inputs[parameter].arguments.add(name=last)
            if op_type == "concat":
                op.inputs[parameter].arguments.add(name=last)
        if op_type == "constexpr_cast":
            text = MIL.Value()
            text.type.tensorType.dataType = MIL.DataType.Value("STRING")
            text.immediateValue.tensor.strings.values.append(random.choice(("fp16", "fp32")))
            op.inputs["output_dtype"].arguments.add().value.CopyFrom(text)
        last = f"{output.name}_grown_{number}"
        op.outputs.add(name=last, type=output.type)
        ops.append(op)
    _insert(block, at, ops)
    if random.random() < 0.7:
        for op in block.operations[at + len(ops) :]:
            for _, argument in sorted(op.inputs.items()):
                for binding in argument.arguments:
                    if binding.name == output.name:
                        binding.name = last


def chain_constants(model: CoreML.Model, random: Random) -> None:
    """Each made from the one before."""
    _grown(model, random, (("identity", ("x",)), ("constexpr_cast", ("source_val",)), ("cast", ("x",))))


def double_constants(model: CoreML.Model, random: Random) -> None:
    """Each made from the one before, twice."""
    scale = ("constexpr_blockwise_shift_scale", ("data", "scale"))
    _grown(model, random, (scale, ("concat", ("values",)), ("constexpr_lut_to_dense", ("indices", "lut"))))


def read_itself(model: CoreML.Model, random: Random) -> None:
    constants = [op for op in _ops(model) if op.type.startswith("constexpr_") and op.inputs and op.outputs]
    if constants:
        op = random.choice(constants)
        binding = op.inputs[random.choice(sorted(op.inputs))].arguments
        del binding[:]
        binding.add(name=op.outputs[0].name)


def mutual_reading(model: CoreML.Model, random: Random) -> None:
    constants = [op for op in _ops(model) if op.type.startswith("constexpr_") and op.outputs]
    if not constants:
        return
    one, two = random.choice(constants), random.choice(constants)
    one.inputs["data"].arguments.add(name=two.outputs[0].name)
    two.inputs["data"].arguments.add(name=one.outputs[0].name)


MUTATORS: tuple[Mutator, ...] = (
    swap_names, rename_reading, change_type, change_shape, change_arguments, change_attributes, change_numbers,
    change_op_type, drop_ops, repeat_ops, shuffle_ops, nest_blocks, chain_constants, double_constants, read_itself,
    mutual_reading,
)  # fmt: skip
