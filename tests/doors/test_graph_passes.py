"""The graph passes, inside ``ct.convert``."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import Program, types
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY
from light_imports import LIGHT
from made_palettes import make_one

from mil_palettize import ConfigError, PlanError, palettize_package
from mil_palettize.algorithms.making import ArraySource
from mil_palettize.doors.graph_passes import palettize_weights
from mil_palettize.expressions.weight_expr import Packed

PASS = "mil_palettize::palettize_weights"
DECOMPRESS = "mil_palettize::decompress_weights"
IOS16, IOS18 = ct.target.iOS16, ct.target.iOS18


def program(target: ct.target, dtype: type = np.float16) -> Program:
    """Two linear layers of 64 to 48 to 64; the weights of the second are read twice."""
    generator = np.random.default_rng(5)
    one = generator.standard_normal((48, 64)).astype(dtype)
    two = generator.standard_normal((64, 48)).astype(dtype)
    kind = types.fp16 if dtype is np.float16 else types.fp32

    @mb.program(input_specs=[mb.TensorSpec(shape=(2, 64), dtype=kind)], opset_version=target)
    def prog(x):
        weight = mb.const(val=two, name="two_weight")
        y = mb.linear(x=x, weight=mb.const(val=one, name="one_weight"), name="one")
        y = mb.linear(x=y, weight=weight, name="two")
        y = mb.linear(x=y, weight=mb.const(val=one * dtype(2), name="three_weight"), name="three")
        return mb.linear(x=y, weight=weight, name="out")

    return prog


def config(**options: object) -> cto.OptimizationConfig:
    return cto.OptimizationConfig(cto.OpPalettizerConfig(**{"mode": "kmeans", "nbits": 4, **options}))


def convert(
    prog: Program, target: ct.target, *, index: int | None = None, name: str = PASS, **options: object
) -> ct.models.MLModel:
    pipeline = ct.PassPipeline()
    if index is None:
        pipeline.append_pass(name)
    else:
        pipeline.insert_pass(index, name)
    if options:
        pipeline.set_options(name, options)
    return ct.convert(
        prog,
        minimum_deployment_target=target,
        pass_pipeline=pipeline,
        compute_precision=ct.precision.FLOAT16,
        skip_model_load=True,
    )


def palettes(model: ct.models.MLModel) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Look-up table and indices by constant, as coremltools reads them."""
    found = {}
    for op in model._mil_program.functions["main"].find_ops(op_type="constexpr_lut_to_dense"):
        found[op.name.removesuffix("_palettized")] = (np.asarray(op.lut.val), np.asarray(op.indices.val))
    return found


def loaded(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The same of a package."""
    from coremltools.converters.mil.frontend.milproto.load import load as load_program

    model = ct.models.MLModel(str(path), skip_model_load=True)
    spec = model.get_spec()
    prog = load_program(spec, spec.specificationVersion, model.weights_dir)
    ops = prog.functions["main"].find_ops(op_type="constexpr_lut_to_dense")
    return {
        op.outputs[0].name.removesuffix("_palettized"): (np.asarray(op.lut.val), np.asarray(op.indices.val))
        for op in ops
    }


def assert_same(one: dict[str, tuple[np.ndarray, np.ndarray]], two: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    assert one.keys() == two.keys()
    for name, (lut, indices) in one.items():
        assert (lut.dtype, lut.shape) == (two[name][0].dtype, two[name][0].shape)
        assert lut.tobytes() == two[name][0].tobytes()
        assert np.array_equal(indices.astype(np.uint8), two[name][1].astype(np.uint8))


@pytest.mark.parametrize(
    ("target", "options"),
    [
        (IOS16, {}),
        (IOS18, {}),
        (IOS18, {"nbits": 3, "granularity": "per_grouped_channel", "group_size": 8}),
        (IOS16, {"mode": "uniform", "nbits": 6}),
        (IOS18, {"cluster_dim": 2}),
    ],
)
def test_same_bits_as_the_package_door(target: ct.target, options: dict[str, object], tmp_path: Path) -> None:
    model = convert(program(target), target, config=config(**options))
    model.save(str(tmp_path / "pass.mlpackage"))
    convert(program(target), target, name="common::noop_elimination").save(str(tmp_path / "dense.mlpackage"))
    palettize_package(tmp_path / "dense.mlpackage", tmp_path / "door.mlpackage", config(**options))
    of_pass = loaded(tmp_path / "pass.mlpackage")
    assert of_pass.keys() == {"one_weight", "two_weight", "three_weight"}
    assert_same(of_pass, loaded(tmp_path / "door.mlpackage"))


@pytest.mark.parametrize("target", [IOS16, IOS18])
def test_first_in_the_pipeline_on_fp32_weights(target: ct.target, tmp_path: Path) -> None:
    """The palettes are of fp32 values there; coremltools' own pass makes fp16 of their tables afterwards."""
    model = convert(program(target, np.float32), target, index=0, config=config())
    model.save(str(tmp_path / "pass.mlpackage"))
    found = {
        name.removesuffix("_palettized_cast_fp16"): parts for name, parts in loaded(tmp_path / "pass.mlpackage").items()
    }
    assert found.keys() == {"one_weight", "two_weight", "three_weight"}
    weight = np.random.default_rng(5).standard_normal((48, 64)).astype(np.float32)
    lut, indices = found["one_weight"]
    assert lut.dtype == np.float16
    expected = make_one(ArraySource("one", weight), mode="kmeans", nbits=4, allowed_nbits=(4,)).expr
    assert lut.reshape(-1).tobytes() == expected.table.reshape(-1).astype(np.float16).tobytes()
    codes = indices if target is IOS18 else Packed(indices.reshape(-1), 4, weight.shape).unpack()
    assert np.array_equal(codes.astype(np.uint8), expected.indices.unpack())


def test_a_weight_read_twice_becomes_one_palette() -> None:
    prog = program(IOS18)
    instance = PASS_REGISTRY[PASS]
    instance.config = config()
    instance.apply(prog)
    ops = prog.functions["main"].find_ops(op_type="constexpr_lut_to_dense")
    assert sorted(op.name for op in ops) == [f"{n}_weight_palettized" for n in ("one", "three", "two")]
    assert sorted(len(op.outputs[0].child_ops) for op in ops) == [1, 1, 2]
    assert {w.name for w in instance.report.palettized} == {"one_weight", "two_weight", "three_weight"}


def test_what_is_refused_leaves_the_program_untouched() -> None:
    prog = program(IOS16)
    before = str(prog)
    instance = PASS_REGISTRY[PASS]
    with pytest.raises(ConfigError, match="needs its option 'config'"):
        instance.apply(prog)
    instance.config = config(granularity="per_grouped_channel", group_size=8)
    with pytest.raises(PlanError, match="supported since iOS18"):
        instance.apply(prog)
    mixed = cto.OptimizationConfig(
        op_name_configs={"one": cto.OpPalettizerConfig(nbits=4), "two": cto.OpPalettizerConfig(nbits=3)}
    )
    instance.config = mixed
    with pytest.raises(PlanError, match="nbits=3"):
        instance.apply(prog)
    assert str(prog) == before


@pytest.mark.parametrize(
    ("option", "value"), [("config", cto.OptimizationConfig(cto.OpLinearQuantizerConfig())), ("select", "some")]
)
def test_wrong_options(option: str, value: object) -> None:
    with pytest.raises(ConfigError):
        convert(program(IOS16), IOS16, **{option: value})


def test_strict_raises_before_anything_changes() -> None:
    prog = program(IOS18)
    before = str(prog)
    instance = PASS_REGISTRY[PASS]
    instance.config = config(mode="unique", nbits=None)
    instance.strict = True
    with pytest.raises(PlanError, match="strict: 3 weights cannot be palettized as asked"):
        instance.apply(prog)
    assert str(prog) == before
    with pytest.raises(ConfigError, match="strict is 'yes'"):
        instance.strict = "yes"


def test_strict_refuses_to_palettize_nothing() -> None:
    """As at the other doors."""
    instance = PASS_REGISTRY[PASS]
    instance.config = config(weight_threshold=1 << 40)
    instance.apply(program(IOS18))
    instance.strict = True
    with pytest.raises(PlanError, match="strict: nothing is palettized: no constant is above the threshold"):
        instance.apply(program(IOS18))


def test_what_is_done_otherwise_than_asked_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "mil_palettize"):
        instance = PASS_REGISTRY[PASS]
        instance.config = config(granularity="per_grouped_channel", group_size=20)
        instance.apply(program(IOS18))
    assert any("does not divide" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("target", [IOS16, IOS18])
def test_decompression_gives_what_coremltools_decodes(target: ct.target) -> None:
    prog = program(target)
    instance = PASS_REGISTRY[PASS]
    instance.config = config(nbits=2)
    instance.apply(prog)
    main = prog.functions["main"]
    expected = {
        op.outputs[0].name: op.materialized_val_inference() for op in main.find_ops(op_type="constexpr_lut_to_dense")
    }
    assert len(expected) == 3
    PASS_REGISTRY[DECOMPRESS].apply(prog)
    assert not [op for op in main.operations if op.op_type.startswith("constexpr_")]
    found = {op.outputs[0].name: op.outputs[0].val for op in main.find_ops(op_type="const")}
    for name, value in expected.items():
        assert (found[name].dtype, found[name].tobytes()) == (value.dtype, value.tobytes())
    assert all(op.outputs[0].child_ops for op in main.find_ops(op_type="const"))  # no parts of palettes are left
    model = convert(prog, target, name="common::noop_elimination")
    assert not palettes(model)


def test_decompression_opens_chains_and_nested_blocks() -> None:
    """A palette whose values are scaled, inside a branch."""
    codes = np.random.default_rng(1).integers(0, 4, (8, 8)).astype(types.np_uint2_dtype)
    lut = np.arange(4, dtype=np.int8).reshape(1, 1, 4, 1)
    scale = np.full((8, 1), 0.5, np.float16)

    @mb.program(
        input_specs=[mb.TensorSpec(shape=(2, 8), dtype=types.fp16), mb.TensorSpec(shape=(1,), dtype=types.bool)],
        opset_version=IOS18,
    )
    def prog(x, flag):
        def scaled():
            data = mb.constexpr_lut_to_dense(indices=codes, lut=lut)
            return mb.linear(x=x, weight=mb.constexpr_blockwise_shift_scale(data=data, scale=scale, name="weight"))

        return mb.cond(pred=mb.squeeze(x=flag), _true_fn=scaled, _false_fn=lambda: mb.relu(x=x))

    PASS_REGISTRY[DECOMPRESS].apply(prog)
    branch = next(op for op in prog.functions["main"].operations if op.op_type == "cond").blocks[0]
    assert not [op for op in branch.operations if op.op_type.startswith("constexpr_")]
    linear = next(op for op in branch.operations if op.op_type == "linear")
    assert np.array_equal(linear.weight.val, codes.astype(np.float16) * np.float16(0.5))


def test_importing_the_module_registers_the_passes() -> None:
    code = LIGHT + (
        "from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY as r;"
        f"assert {PASS!r} not in r; import mil_palettize.doors.graph_passes;"
        f"assert {PASS!r} in r and {DECOMPRESS!r} in r"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True)


# In the place of coremltools' own pass


@pytest.fixture
def in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PASS_REGISTRY.passes, "compression::palettize_weights", palettize_weights)


@pytest.mark.usefixtures("in_its_place")
@pytest.mark.parametrize("joint", [False, True])
def test_coremltools_own_function_uses_it(joint: bool) -> None:
    model = convert(program(IOS18), IOS18, name="common::noop_elimination")
    found = palettes(cto.palettize_weights(model, config(), joint_compression=joint))
    assert_same(found, palettes(convert(program(IOS18), IOS18, config=config())))
    with pytest.raises(ValueError, match="joint_compression only supports bool, but got <class 'int'>"):
        cto.palettize_weights(model, config(), joint_compression=1)


@pytest.mark.usefixtures("in_its_place")
@pytest.mark.parametrize("target", [IOS16, IOS18])
def test_coremltools_own_pipeline_uses_it(target: ct.target) -> None:
    """First of all passes, on fp32 weights that are clustered."""
    values = np.random.default_rng(1).standard_normal(4).astype(np.float32)
    weight = values[np.random.default_rng(2).integers(0, 4, (64, 64))]

    @mb.program(input_specs=[mb.TensorSpec(shape=(2, 64))], opset_version=target)
    def prog(x):
        return mb.linear(x=x, weight=weight)

    pipeline = ct.PassPipeline.DEFAULT_PALETTIZATION
    options = {"minimum_deployment_target": target, "compute_precision": ct.precision.FLOAT16, "skip_model_load": True}
    main = ct.convert(prog, pass_pipeline=pipeline, **options)._mil_program.functions["main"]
    (palette,) = main.find_ops(op_type="constexpr_lut_to_dense")
    assert palette.materialized_val_inference().tobytes() == weight.astype(np.float16).tobytes()


@pytest.mark.usefixtures("in_its_place")
def test_an_op_selector_takes_the_place_of_the_threshold() -> None:
    """``ct.compression_utils``: constants that are no weights and small ones, too, if the selector accepts them."""
    asked = []

    def selector(const: object) -> bool:
        asked.append(const.name)
        return const.name != "two_weight_to_fp16"

    @mb.program(input_specs=[mb.TensorSpec(shape=(2, 64))], opset_version=IOS16)
    def prog(x):
        generator = np.random.default_rng(4)
        y = mb.linear(x=x, weight=mb.const(val=generator.standard_normal((48, 64)).astype("f"), name="one_weight"))
        y = mb.linear(x=y, weight=mb.const(val=generator.standard_normal((16, 48)).astype("f"), name="two_weight"))
        return mb.add(x=y, y=mb.const(val=generator.standard_normal((2, 16)).astype("f"), name="table"))

    model = convert(prog, IOS16, name="common::noop_elimination")
    found = palettes(ct.compression_utils.palettize_weights(model, nbits=2, op_selector=selector))
    assert found.keys() == {"one_weight_to_fp16", "table_to_fp16"}
    assert asked.count("two_weight_to_fp16") == 1
    assert all(len(table) == 4 for table, _ in found.values())
    found = palettes(ct.compression_utils.palettize_weights(model, nbits=2))
    assert found.keys() == {"one_weight_to_fp16"}  # coremltools' own selector: above 2,048 elements


def test_an_op_selector_and_a_threshold_are_an_error() -> None:
    old = cto.OptimizationConfig(cto.OpPalettizerConfig(nbits=4, weight_threshold=10), is_deprecated=True)
    with pytest.raises(ConfigError, match="weight_threshold cannot be set"):
        palettize_weights(old)


@pytest.mark.parametrize("wrong", [1, "config"])
def test_constructed_with_something_else(wrong: object) -> None:
    with pytest.raises(ConfigError, match="config must be of type OptimizationConfig"):
        palettize_weights(config=wrong)


@pytest.mark.parametrize("target", [IOS16, IOS18])
def test_fake_compression_gives_the_values_of_the_palette(target: ct.target) -> None:
    real, fake = program(target), program(target)
    palettize_weights(config(), fake_compression=False).apply(real)
    palettize_weights(config(), fake_compression=True).apply(fake)
    expected = {
        op.name.removesuffix("_palettized"): op.materialized_val_inference()
        for op in real.functions["main"].find_ops(op_type="constexpr_lut_to_dense")
    }
    found = {op.name: op.outputs[0] for op in fake.functions["main"].find_ops(op_type="const")}
    assert not fake.functions["main"].find_ops(op_type="constexpr_lut_to_dense")
    assert len(expected) == 3
    for name, values in expected.items():
        var = found[f"{name}_fake_palettized"]
        assert name not in found
        assert (var.val.dtype, var.val.tobytes()) == (values.dtype, values.tobytes())
        assert [op.op_type for op in var.child_ops] == ["linear"] * (2 if name == "two_weight" else 1)


@pytest.mark.parametrize("kind", ["sparse", "scaled"])
def test_fake_compression_of_what_is_compressed_already(kind: str) -> None:
    generator = np.random.default_rng(6)
    mask = generator.integers(0, 2, (64, 64)).astype(types.np_uint1_dtype)
    values = generator.standard_normal(int(np.sum(mask != 0))).astype(np.float16)
    codes, scale = generator.integers(-99, 99, (64, 64)).astype(np.int8), np.full((64, 1), 0.01, np.float16)

    def prog() -> Program:
        @mb.program(input_specs=[mb.TensorSpec(shape=(2, 64), dtype=types.fp16)], opset_version=IOS18)
        def inner(x):
            if kind == "sparse":
                weight = mb.constexpr_sparse_to_dense(nonzero_data=values, mask=mask, name="weight")
            else:
                weight = mb.constexpr_blockwise_shift_scale(data=codes, scale=scale, name="weight")
            return mb.linear(x=x, weight=weight, name="out")

        return inner

    done = []
    for fake in (False, True):
        instance = palettize_weights(config(nbits=2), fake_compression=fake)
        instance.joint_compression = True
        done.append(prog())
        instance.apply(done[-1])
        assert [weight.name for weight in instance.report.palettized] == ["weight"]
    PASS_REGISTRY[DECOMPRESS].apply(done[0])
    (real,), (faked,) = (p.functions["main"].find_ops(op_type="linear") for p in done)
    assert faked.weight.op.name.endswith("_fake_palettized")
    assert (faked.weight.val.dtype, faked.weight.val.tobytes()) == (np.float16, real.weight.val.tobytes())


def test_weights_with_too_many_values_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "mil_palettize"):
        palettize_weights(config(mode="unique", nbits=None)).apply(program(IOS16))
    messages = [record.getMessage() for record in caplog.records]
    assert sum("one_weight" in message and "left alone: has " in message for message in messages) == 1
