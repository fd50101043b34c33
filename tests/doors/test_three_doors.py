"""The package, the model in memory and the pass in ``ct.convert``: from the same arrays the same palettes."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import Program, types
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY
from coremltools.proto import MIL_pb2 as MIL
from mil_decoding import Scope, decode_value
from packages import blob_users, blocks, read_spec, weights_dir
from slow_cases import scaled_vectors, slow_where

import mil_palettize
from mil_palettize import OpPalettizerConfig, OptimizationConfig, palettize_package, palettize_weights, pass_pipeline
from mil_palettize.doors.graph_passes import palettize_weights as our_pass

IOS16, IOS18, IOS26 = ct.target.iOS16, ct.target.iOS18, ct.target.iOS26
DTYPES = {"fp16": (np.float16, types.fp16), "fp32": (np.float32, types.fp32)}
# The output channels of these lie along axis 0, 1, 0 and 1.
SHAPES = {"conv": (24, 8, 3, 3), "up": (24, 16, 2, 2), "linear": (40, 64), "product": (40, 32)}
LUT, SCALE = "constexpr_lut_to_dense", "constexpr_blockwise_shift_scale"
CLUSTERED = 12  # distinct values, for mode "unique"
Tree = tuple[object, ...]

GROUPS = {"granularity": "per_grouped_channel", "group_size": 4}
SCALED = {"enable_per_channel_scale": True}
FORMS: dict[str, tuple[ct.target, dict[str, object]]] = {
    "packed": (IOS16, {}),
    "packed, uniform": (IOS16, {"mode": "uniform", "nbits": 6}),
    "packed, unique": (IOS16, {"mode": "unique", "nbits": None}),
    "typed": (IOS18, {"nbits": 3}),
    "unique": (IOS18, {"mode": "unique", "nbits": None}),
    "groups": (IOS18, {"nbits": 2, **GROUPS}),
    "groups along axis 1": (IOS18, {"nbits": 2, "channel_axis": 1, **GROUPS}),
    "vectors": (IOS18, {"cluster_dim": 2}),
    "vectors in groups": (IOS18, {"nbits": 2, "cluster_dim": 2, **GROUPS}),
    "scaled": (IOS18, SCALED),
    "groups scaled": (IOS18, {**SCALED, **GROUPS}),
    "folded": (IOS18, {**SCALED, "scale": "fold"}),
    "int8 table": (IOS18, {"lut_dtype": "int8"}),
    "uint8 tables": (IOS18, {"lut_dtype": "uint8", **GROUPS}),
    "int8 table, scaled": (IOS18, {"lut_dtype": "int8", **SCALED}),
    "vectors, scaled": (IOS18, {"cluster_dim": 2, **SCALED}),
    "int8 table of vectors, iOS26": (IOS26, {"cluster_dim": 2, "lut_dtype": "int8"}),
    "int8 table of vectors, iOS26, scaled": (IOS26, {"cluster_dim": 2, "lut_dtype": "int8", **SCALED}),
}
FP32 = ("packed", "groups", "vectors", "scaled", "unique")
SPARSE: dict[str, dict[str, object]] = {
    "sparse": {"nbits": 3},
    "sparse groups": {"nbits": 2, **GROUPS},
    "sparse unique": {"mode": "unique", "nbits": None},
    "sparse, int8 table": {"lut_dtype": "int8"},
    "sparse vectors, uint8 table": {"cluster_dim": 2, "lut_dtype": "uint8"},
}


@cache
def values(name: str, dtype: str, clustered: bool) -> np.ndarray:
    draw = np.random.default_rng(sum(map(ord, name)))
    array = draw.standard_normal(SHAPES[name]) * 0.1
    if clustered:
        lattice = np.linspace(-0.25, 0.25, CLUSTERED)
        array = draw.permutation(np.resize(lattice, array.size)).reshape(array.shape)
    return array.astype(DTYPES[dtype][0])


def network(target: ct.target, dtype: str, clustered: bool = False) -> Program:
    @mb.program(input_specs=[mb.TensorSpec((1, 8, 4, 4), dtype=DTYPES[dtype][1])], opset_version=target)
    def program(image):
        def const(name: str):
            return mb.const(val=values(name, dtype, clustered), name=f"{name}_weight")

        x = mb.conv(x=image, weight=const("conv"), pad_type="same", name="conv")
        x = mb.conv_transpose(x=x, weight=const("up"), strides=[2, 2], name="up")
        x = mb.reshape(x=mb.reduce_mean(x=x, axes=[2], name="pool"), shape=[1, -1], name="row")
        x = mb.linear(x=mb.slice_by_size(x=x, begin=[0, 0], size=[1, 64]), weight=const("linear"), name="linear")
        return mb.matmul(x=x, y=const("product"), name="product")

    return program


def converted(program: Program, target: ct.target, dtype: str, pipeline: ct.PassPipeline) -> ct.models.MLModel:
    precision = {"fp16": ct.precision.FLOAT16, "fp32": ct.precision.FLOAT32}[dtype]
    return ct.convert(
        program,
        minimum_deployment_target=target,
        compute_precision=precision,
        pass_pipeline=pipeline,
        skip_model_load=True,
    )


def config(options: dict[str, object]) -> OptimizationConfig:
    return OptimizationConfig(OpPalettizerConfig(**{"mode": "kmeans", "nbits": 4, "weight_threshold": 100, **options}))


def pruning(base: ct.PassPipeline) -> ct.PassPipeline:
    """``base`` with pruning at its end."""
    name = "compression::prune_weights"
    base.append_pass(name)
    options = cto.OpMagnitudePrunerConfig(target_sparsity=0.6, weight_threshold=100)
    base.set_options(name, {"config": cto.OptimizationConfig(options)})
    return base


# What a package holds


def trees(package: Path) -> dict[str, Tree]:
    """Constant as it was called -> its op with everything it is made of, names left out."""
    found: dict[str, Tree] = {}
    for placed in blocks(read_spec(package)):
        for op in placed.block.operations:
            if op.type == "const" or op.type.startswith("constexpr_"):
                continue
            for name in (b.name for argument in op.inputs.values() for b in argument.arguments):
                if name in placed.scope and placed.scope[name].type.startswith("constexpr_"):
                    dense = name.removesuffix("_pcs").removesuffix("_palettized")
                    found[dense] = tree(placed.scope[name], name, placed.scope, package)
    return found


def tree(op: MIL.Operation, output: str, scope: Scope, package: Path) -> Tree:
    return (op.type, [o.name for o in op.outputs].index(output), *sorted(_parts(op, scope, package)))


def _parts(op: MIL.Operation, scope: Scope, package: Path) -> Iterator[Tree]:
    for name, value in op.attributes.items():
        if name != "name":
            yield name, held(value, package)
    for name, argument in op.inputs.items():
        (binding,) = argument.arguments
        if binding.WhichOneof("binding") == "value":
            yield name, held(binding.value, package)
        else:
            yield name, tree(scope[binding.name], binding.name, scope, package)


def held(value: MIL.Value, package: Path) -> Tree:
    """Type and bits of a value."""
    array = decode_value(value, package)
    return MIL.DataType.Name(value.type.tensorType.dataType), array.shape, array.tobytes()


@cache
def plain(target: ct.target, dtype: str, clustered: bool, sparse: bool) -> ct.models.MLModel:
    """Without palettes: what the package and the model are."""
    pipeline = pruning(ct.PassPipeline()) if sparse else ct.PassPipeline()
    return converted(network(target, dtype, clustered), target, dtype, pipeline)


def through_doors(
    tmp_path: Path,
    target: ct.target,
    dtype: str,
    asked: OptimizationConfig,
    *,
    sparse: bool = False,
    importance: Mapping[str, np.ndarray] | None = None,
) -> list[dict[str, Tree]]:
    """Through the package, the model and the pass."""
    clustered = asked.global_config.mode == "UNIQUE"
    given = {"importance": importance, "strict": importance is not None}
    source = plain(target, dtype, clustered, sparse)
    pipeline = pass_pipeline(asked, pruning(ct.PassPipeline()) if sparse else None, joint_compression=sparse, **given)
    paths = [tmp_path / f"{name}.mlpackage" for name in ("source", "package", "model", "pass")]
    source.save(str(paths[0]))
    palettize_package(paths[0], paths[1], asked, joint_compression=sparse, verify=True, **given)
    palettize_weights(source, asked, sparse, **given).save(str(paths[2]))
    converted(network(target, dtype, clustered), target, dtype, pipeline).save(str(paths[3]))
    return [trees(path) for path in paths[1:]]


@pytest.mark.parametrize(
    ("form", "dtype"),
    slow_where(
        lambda form, dtype: scaled_vectors(form) or (form, dtype) == ("vectors", "fp32"),
        [(form, "fp16") for form in FORMS]
        + [(form, "fp32") for form in ("packed", "groups", "vectors", "scaled", "unique")],
    ),
)
def test_all_three_give_the_same(form: str, dtype: str, tmp_path: Path) -> None:
    target, options = FORMS[form]
    package, model, in_conversion = through_doors(tmp_path, target, dtype, config(options))
    assert len(package) == len(SHAPES)
    assert {made[0] for made in package.values()} == {SCALE if form.endswith("scaled") else LUT}
    assert package == model
    assert package == in_conversion


@pytest.mark.parametrize("form", SPARSE)
def test_sparse_weights_too(form: str, tmp_path: Path) -> None:
    package, model, in_conversion = through_doors(tmp_path, IOS18, "fp16", config(SPARSE[form]), sparse=True)
    assert len(package) == len(SHAPES)
    assert all(made[0] == "constexpr_sparse_to_dense" for made in package.values())
    assert all("constexpr_lut_to_sparse" in str(made) for made in package.values())
    assert package == model == in_conversion


def importance_of(sparse: bool) -> dict[str, np.ndarray]:
    """Of the weights by the names they are saved by: of every element, of each channel, of blocks."""
    suffix = "_weight_sparsified" if sparse else "_weight"
    shapes = {"conv": SHAPES["conv"], "up": (24, 1, 1, 1), "linear": (8, 16), "product": (1, 32)}
    draw = np.random.default_rng(8)
    return {f"{name}{suffix}": draw.uniform(0.01, 10, shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("form", "dtype", "sparse"),
    [
        ("packed", "fp16", False),
        ("typed", "fp32", False),
        ("unique", "fp16", False),
        ("groups", "fp16", False),
        ("groups scaled", "fp32", False),
        ("uint8 tables", "fp16", False),
        ("typed", "fp16", True),
        pytest.param("vectors, scaled", "fp16", False, marks=pytest.mark.slow),
        ("vectors", "fp16", True),
    ],
)
def test_importance_is_the_same_everywhere(form: str, dtype: str, sparse: bool, tmp_path: Path) -> None:
    target, options = FORMS[form]
    asked = config(options)
    package, model, in_conversion = through_doors(
        tmp_path, target, dtype, asked, sparse=sparse, importance=importance_of(sparse)
    )
    assert package == model == in_conversion
    plain_path = tmp_path / "without.mlpackage"
    palettize_package(tmp_path / "source.mlpackage", plain_path, asked, joint_compression=sparse)
    differs = {name for name, made in trees(plain_path).items() if made != package[name]}
    assert differs == (set() if form == "unique" else set(package))


def test_the_comparison_sees_one_bit(tmp_path: Path) -> None:
    """Of any index, table or mask."""
    path, source = tmp_path / "package.mlpackage", tmp_path / "source.mlpackage"
    plain(IOS18, "fp16", False, True).save(str(source))
    palettize_package(source, path, config({}), joint_compression=True)
    before = trees(path)
    file = weights_dir(path) / "weight.bin"
    data = file.read_bytes()
    records = [offset for (_, offset), users in blob_users(path).items() if "palettized" in str(users)]
    assert len(records) == 3 * len(SHAPES)
    for offset in records:
        (at,) = struct.unpack_from("<Q", data, offset + 16)
        file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert trees(path) != before


# coremltools' functions replaced by these, in somebody's code

USER_CODE = """
import coremltools as ct
import coremltools.optimize as cto

op_config = cto.coreml.OpPalettizerConfig(mode="kmeans", nbits=4, weight_threshold=100)
config = cto.coreml.OptimizationConfig(global_config=op_config)
small = cto.coreml.palettize_weights(model, config)
pipeline = ct.PassPipeline.DEFAULT_PALETTIZATION
pipeline.set_options("compression::palettize_weights", {"config": config})
converted = ct.convert(
    program, minimum_deployment_target=target, pass_pipeline=pipeline, compute_precision=ct.precision.FLOAT32
)
"""


@pytest.mark.parametrize("target", [IOS16, IOS18])
def test_code_that_was_written_for_coremltools(
    target: ct.target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="mil_palettize")
    monkeypatch.setattr(cto, "palettize_weights", mil_palettize.palettize_weights)
    monkeypatch.setitem(PASS_REGISTRY.passes, "compression::palettize_weights", our_pass)
    names = {"model": plain(target, "fp32", False, False), "program": network(target, "fp32"), "target": target}
    exec(USER_CODE, names)
    expected, *_ = through_doors(tmp_path, target, "fp32", config({}))
    for made in ("small", "converted"):
        path = tmp_path / f"{made}.mlpackage"
        names[made].save(str(path))
        assert trees(path) == expected
    told = [r.getMessage().splitlines()[0] for r in caplog.records if r.levelname == "INFO"]
    assert [line.partition(" →")[0] for line in told][:2] == ["the model in memory", "the program being converted"]
