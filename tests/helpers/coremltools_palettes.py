"""coremltools' own ``palettize_weights`` beside ours: networks to try both on, and what is held against what.

Packages are read back by ``packages.py``, which shares no code with either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.frontend.milproto.load import load as load_pymil
from coremltools.converters.mil.mil import Block, Operation, Var, types
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil.ops.defs.iOS18 import compression as ios18
from coremltools.optimize.coreml import palettize_weights
from coremltools.proto import MIL_pb2 as MIL
from packages import Scope, blob_file, constants, decode_value, read_record, read_spec, weights_dir
from threadpoolctl import threadpool_limits

from mil_palettize import OpPalettizerConfig, OptimizationConfig, Report, palettize_package

LUT = "constexpr_lut_to_dense"
LUT_TO_SPARSE = "constexpr_lut_to_sparse"
DTYPES = {"fp16": np.float16, "fp32": np.float32}
TARGETS = {"iOS16": ct.target.iOS16, "iOS18": ct.target.iOS18}
# Distinct values of each weight of a network made for mode "unique": 1 to 8 bits, 3 only where there are such.
LEVELS = {"conv": 2, "depthwise": 4, "up": 12, "odd": 16, "product": 50, "transposed": 64, "first": 3, "table": 200}


def network(dtype: str, target: str, lattice: bool) -> ct.models.MLModel:
    """Every op whose weight has a channel axis of its own, and constants nobody should take."""
    draw = np.random.default_rng(7)

    def const(name: str, *shape: int) -> Var:
        array = draw.standard_normal(shape) * 0.05
        if lattice:
            count = 7 if (name, target) == ("depthwise", "iOS18") else LEVELS.get(name, 300)
            levels = np.unique(np.linspace(-0.25, 0.25, count).astype(np.float32))
            array = draw.permutation(np.resize(levels, array.size)).reshape(shape)
        return mb.const(val=array.astype(DTYPES[dtype]), name=f"{name}_weight")

    def body(image: Var, ids: Var) -> tuple[Var, ...]:
        x = mb.cast(x=image, dtype=dtype, name="image_cast")
        x = mb.conv(x=x, weight=const("conv", 50, 10, 3, 3), pad_type="same", name="conv")
        x = mb.conv(x=x, weight=const("depthwise", 50, 1, 9, 9), groups=50, pad_type="same", name="depthwise")
        x = mb.conv_transpose(x=x, weight=const("up", 50, 25, 2, 2), strides=[2, 2], name="up")
        x = mb.reduce_mean(x=x, axes=[2, 3], name="pool")
        x = mb.linear(x=x, weight=const("small", 29, 25), name="small")
        x = mb.linear(x=x, weight=const("odd", 75, 29), name="odd")
        x = mb.matmul(x=x, y=const("product", 75, 50), name="product")
        x = mb.matmul(x=x, y=const("transposed", 75, 50), transpose_y=True, name="transposed")
        x = mb.matmul(x=const("first", 50, 75), y=x, transpose_y=True, name="first")
        x = mb.transpose(x=x, perm=[1, 0], name="row")
        both = const("both", 50, 50)
        x = mb.matmul(x=mb.linear(x=x, weight=both, name="both_linear"), y=both, name="both_product")
        x = mb.add(x=x, y=const("added", 50, 50), name="added")
        x = mb.linear(x=x, weight=const("small_too", 32, 50), name="small_too")
        x = mb.linear(x=x, weight=const("threshold", 64, 32), name="at_threshold")
        looked_up = mb.gather(x=const("table", 100, 25), indices=ids, axis=0, name="looked_up")
        listed = mb.gather(x=const("list", 2500), indices=ids, axis=0, name="listed")
        return tuple(mb.cast(x=y, dtype="fp32", name=f"y{i}") for i, y in enumerate((x, looked_up, listed)))

    specs = [mb.TensorSpec((1, 10, 6, 6)), mb.TensorSpec((4,), dtype=types.int32)]
    program = mb.program(input_specs=specs, opset_version=TARGETS[target])(body)
    return ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=TARGETS[target],
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
    )


# Both packages


class Palettes(NamedTuple):
    """A package and its palettes: (function, block, constant's name) → (op, call decoding it)."""

    package: Path
    found: dict[tuple[str, str, str], tuple[MIL.Operation, Callable[[], np.ndarray]]]


def palettes(package: Path, suffix: str = "") -> Palettes:
    """Of a package; names lose ``suffix``."""
    found = {}
    for (_, function, place, name), entry in constants(package).items():
        if entry[0].type == LUT and name.endswith(suffix):
            found[function, place, name.removesuffix(suffix)] = entry
    return Palettes(package, found)


def ours(source: Path, folder: Path, **options: object) -> tuple[Palettes, Report]:
    """Our package, without palettes that were in ``source`` already."""
    target = folder / "ours.mlpackage"
    config = OptimizationConfig(global_config=OpPalettizerConfig(**options))
    report = palettize_package(source, target, config, select="all")
    made, before = palettes(target), palettes(source)
    return Palettes(target, {k: v for k, v in made.found.items() if k not in before.found}), report


def theirs(source: Path, folder: Path, **options: object) -> Palettes:
    """coremltools' package."""
    target = folder / "theirs.mlpackage"
    config = OptimizationConfig(global_config=OpPalettizerConfig(**options))
    with pytest.MonkeyPatch.context() as patch, threadpool_limits(1):
        patch.setattr(np, "unique", partial(sound_unique, np.unique))
        palettize_weights(ct.models.MLModel(str(source), skip_model_load=True), config).save(str(target))
    made = palettes(target, "_palettized")
    before = palettes(source, "_palettized")  # a palette they made before has the same ending
    return Palettes(target, {k: v for k, v in made.found.items() if k not in before.found})


def sound_unique(unique: Callable, array: np.ndarray, **options: object) -> object:
    """numpy's ``unique``, which on some AVX-512 machines gives values of float16 twice (it sorts them wrongly)."""
    if array.dtype != np.float16:
        return unique(array, **options)
    found = unique(array.astype(np.float32), **options)
    return (found[0].astype(np.float16), *found[1:]) if isinstance(found, tuple) else found.astype(np.float16)


def weights(package: Path, *, bare: bool = True) -> Palettes:
    """Of a package: its compressed constants that other ops than constants read. ``bare``: by the names they had when
    dense."""
    found = {}
    scoped = constants(package)
    inner = {b.name for op, _ in scoped.values() for a in op.inputs.values() for b in a.arguments}
    for (_, function, place, name), entry in scoped.items():
        if entry[0].type.startswith("constexpr_") and name not in inner and entry[0].outputs[0].name == name:
            dense = name.removesuffix("_pcs").removesuffix("_palettized") if bare else name
            found[function, place, dense] = entry
    return Palettes(package, found)


def part(entry: MIL.Operation, scope: Scope, package: Path, *names: str) -> np.ndarray:
    """The value of the first input called so, of a constant op or the ones it is made of."""
    for name in names:
        if name in entry.inputs and entry.inputs[name].arguments[0].WhichOneof("binding") == "value":
            return decode_value(entry.inputs[name].arguments[0].value, package)
    sources = [a.arguments[0].name for a in entry.inputs.values() if a.arguments[0].WhichOneof("binding") == "name"]
    return part(scope[sources[0]], scope, package, *names)


def described(op: MIL.Operation, package: Path, scope: Scope | None = None) -> dict[str, object]:
    """An op but for its names and its data: parameters, types, and how and where values are stored; inputs bound by
    name, which are looked up in ``scope``, are which output of which op."""
    parts: dict[str, object] = {"type": op.type, "outputs": [o.type.SerializeToString() for o in op.outputs]}
    for name, value in op.attributes.items():
        parts[f"attribute {name}"] = "" if name == "name" else stored(value, package)
    for name, argument in op.inputs.items():
        (binding,) = argument.arguments
        if binding.WhichOneof("binding") == "value":
            parts[f"input {name}"] = stored(binding.value, package)
        else:
            source = (scope or {})[binding.name]
            number = [output.name for output in source.outputs].index(binding.name)
            parts[f"input {name}"] = number, described(source, package, scope)
    return parts


def stored(value: MIL.Value, package: Path) -> tuple[object, ...]:
    kind = value.type.SerializeToString()
    if value.WhichOneof("value") == "blobFileValue":
        code, data, padding = read_record(blob_file(value, package), value.blobFileValue.offset)
        return kind, value.blobFileValue.fileName, code, len(data), padding
    tensor = value.immediateValue.tensor
    field = tensor.WhichOneof("value")
    return kind, field, len(getattr(tensor, field).values)


def nbytes(op: MIL.Operation, package: Path) -> int:
    """Bytes of a palette's indices and table."""
    count = 0
    for name in ("indices", "lut"):
        value = op.attributes[name] if name in op.attributes else op.inputs[name].arguments[0].value
        if value.WhichOneof("value") == "blobFileValue":
            count += len(read_record(blob_file(value, package), value.blobFileValue.offset)[1])
        else:
            tensor = value.immediateValue.tensor
            count += len(tensor.bytes.values) + 4 * len(tensor.floats.values)
    return count


def squared_error(weight: np.ndarray, decoded: np.ndarray) -> float:
    assert (weight.dtype, weight.shape) == (decoded.dtype, decoded.shape)
    return float(np.sum((weight.astype(np.float64) - decoded.astype(np.float64)) ** 2))


def compare(source: Path, mine: Palettes, other: Palettes, slack: float = 1e-9) -> set[tuple[str, str, str]]:
    """Hold the palettes that both made against each other; gives their keys. ``slack``: relative, of the error."""
    dense = {key[1:]: decode for key, (_, decode) in constants(source).items()}
    both = mine.found.keys() & other.found.keys()
    for key in both:
        (op, decode), (their_op, their_decode) = mine.found[key], other.found[key]
        assert described(op, mine.package) == described(their_op, other.package), key
        weight = dense[key]()
        assert squared_error(weight, decode()) <= squared_error(weight, their_decode()) * (1 + slack), key
    return both


def main_names(keys: object) -> set[str]:
    return {name.removesuffix("_weight") for _, _, name in keys}


# What coremltools makes of our packages


# Op type -> coremltools' decoder, and its parameters.
DECODERS = {
    "constexpr_lut_to_dense": (ios18.constexpr_lut_to_dense.decompress, ("indices", "lut", "vector_axis")),
    "constexpr_blockwise_shift_scale": (
        ios18.constexpr_blockwise_shift_scale.decompress,
        ("data", "scale", "offset"),
    ),
    "constexpr_lut_to_sparse": (
        ios18.constexpr_lut_to_sparse.decompress,
        ("indices_mask", "indices_nonzero_data", "lut", "vector_axis"),
    ),
    "constexpr_sparse_to_dense": (ios18.constexpr_sparse_to_dense.decompress, ("nonzero_data", "mask")),
}


def pymil_ops(package: Path) -> Iterator[tuple[str, Operation]]:
    """(function, op) of every op as coremltools reads the package, nested blocks included."""
    spec = read_spec(package)
    program = load_pymil(spec, spec.specificationVersion, str(weights_dir(package)))

    def walk(block: Block) -> Iterator[Operation]:
        for op in block.operations:
            yield op
            for inner in op.blocks:
                yield from walk(inner)

    for name, function in program.functions.items():
        for op in walk(function):
            yield name, op


def decoded_there(package: Path) -> dict[tuple[str, str], np.ndarray]:
    """(function, name) -> what coremltools decodes a compressed constant to.

    It decodes none whose table is another op's output (when it learns to, this fails); for these its decoders of the
    ops follow one another.
    """
    found = {}
    for function, op in pymil_ops(package):
        if op.op_type not in DECODERS or op.op_type == LUT_TO_SPARSE:
            continue
        inner = [op, *(var.op for var in op.inputs.values() if var is not None and not isinstance(var, tuple))]
        lut = next((o.lut for o in inner if o is not None and o.op_type.startswith("constexpr_lut")), None)
        if lut is None or lut.op.op_type == "const":
            found[function, op.outputs[0].name] = np.asarray(op.materialized_val_inference())
            continue
        with pytest.raises((AttributeError, TypeError)):
            op.materialized_val_inference()
        found[function, op.outputs[0].name] = np.asarray(_step_by_step(op.outputs[0]))
    return found


def _step_by_step(var: Var | None) -> np.ndarray | None:
    if var is None or var.op.op_type not in DECODERS:
        return None if var is None else var.val
    decompress, names = DECODERS[var.op.op_type]
    made = decompress(*(_step_by_step(getattr(var.op, name, None)) for name in names))
    return made[var.op.outputs.index(var)] if isinstance(made, tuple) else made


def check_loads(source: Path, mine: Palettes, report: Report) -> None:
    """coremltools loads the package, and its own decoding of our ops is what the report says."""
    model = ct.models.MLModel(str(mine.package), skip_model_load=True)
    assert model.get_spec().specificationVersion >= 7
    dense = {(key[1], key[3]): decode for key, (_, decode) in constants(source).items()}
    claims = {(w.function, w.name): w for w in report.palettized}
    seen = set()
    for function, op in pymil_ops(mine.package):
        for key in ((function, output.name) for output in op.outputs):
            if key in claims and op.op_type == LUT:
                value = op.materialized_val_inference()
                error = squared_error(dense[key](), np.asarray(value))
                assert error == pytest.approx(claims[key].squared_error, rel=1e-9, abs=1e-300), key
                seen.add(key)
    assert seen == claims.keys()
