"""``pass_pipeline``: where palettization stands in ``ct.convert``, and what comes of clustered weights there."""

from __future__ import annotations

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import Program, types
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY

from mil_palettize import ConfigError, PlanError, pass_pipeline

OURS = "mil_palettize::palettize_weights"
CLUSTERED = "mil_palettize::palettize_clustered_weights"
THEIRS = "compression::palettize_weights"
PRUNE = "compression::prune_weights"
QUANTIZE = "compression::linear_quantize_weights"
FUSION = "common::fuse_conv_scale"
IOS16, IOS17, IOS18 = ct.target.iOS16, ct.target.iOS17, ct.target.iOS18
KMEANS = {"mode": "kmeans", "nbits": 4}
CHANNELS = 32


def config(mode: str = "unique", **options: object) -> cto.OptimizationConfig:
    return cto.OptimizationConfig(cto.OpPalettizerConfig(mode=mode, **{"weight_threshold": 100, **options}))


def options_of(pipeline: ct.PassPipeline) -> dict[str, dict[str, object]]:
    return {name: {o.option_name: o.option_val for o in of} for name, of in pipeline.get_all_options().items()}


# Where the passes stand


def test_without_a_base_it_is_the_default_with_ours_at_the_end() -> None:
    asked = config(**KMEANS)
    pipeline = pass_pipeline(asked, select="all", strict=True, joint_compression=True)
    assert pipeline.passes == [*ct.PassPipeline.DEFAULT.passes, OURS]
    expected = {"config": asked, "select": "all", "strict": True, "joint_compression": True}
    expected |= {"importance": None, "calibration": None}
    assert options_of(pipeline) == {OURS: expected}
    assert ct.PassPipeline().passes == ct.PassPipeline.DEFAULT.passes  # no list of coremltools has grown


@pytest.mark.parametrize(
    "asked",
    [
        config(),
        cto.OptimizationConfig(op_type_configs={"conv": cto.OpPalettizerConfig(mode="unique")}),
        cto.OptimizationConfig(op_name_configs={"a": cto.OpPalettizerConfig(mode="UNIQUE")}),
    ],
)
def test_clustered_weights_are_looked_for_before_the_fusions(asked: cto.OptimizationConfig) -> None:
    passes = pass_pipeline(asked).passes
    assert passes[passes.index(CLUSTERED) + 1] == FUSION == next(p for p in passes if "conv_scale" in p)
    assert [p for p in passes if p not in (OURS, CLUSTERED)] == ct.PassPipeline.DEFAULT.passes
    assert passes.count(CLUSTERED) == 1
    assert passes[-1] == OURS


def test_a_base_is_copied_and_its_palettization_replaced() -> None:
    base = ct.PassPipeline.DEFAULT_PALETTIZATION
    base.set_options("common::const_elimination", {"skip_const_by_size": "1000"})
    passes, options = list(base.passes), options_of(base)
    asked = config(**KMEANS)
    pipeline = pass_pipeline(asked, base)
    assert (base.passes, options_of(base)) == (passes, options)
    assert pipeline.passes == [*ct.PassPipeline.DEFAULT.passes, OURS]
    assert options_of(pipeline).keys() == {OURS, "common::const_elimination"}
    assert options_of(pipeline)["common::const_elimination"] == {"skip_const_by_size": "1000"}
    assert options_of(pipeline)[OURS]["config"] is asked
    pipeline.validate()
    pipeline.append_pass(OURS)
    pipeline.set_options("common::const_elimination", {"skip_const_by_size": "1"})
    assert (base.passes, options_of(base)) == (passes, options)


def test_pruning_stays_and_comes_first() -> None:
    pipeline = pass_pipeline(config(), ct.PassPipeline.DEFAULT_PRUNING)
    assert (pipeline.passes[0], pipeline.passes[-1]) == (PRUNE, OURS)
    assert options_of(pipeline)[PRUNE] == options_of(ct.PassPipeline.DEFAULT_PRUNING)[PRUNE]


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ([], [OURS]),
        ([THEIRS, QUANTIZE], [OURS, QUANTIZE]),
        (["common::noop_elimination", PRUNE], ["common::noop_elimination", PRUNE, OURS]),
        ([PRUNE, THEIRS, QUANTIZE], [PRUNE, OURS, QUANTIZE]),
        ([THEIRS, PRUNE, "common::noop_elimination"], [PRUNE, "common::noop_elimination", OURS]),
        ([THEIRS, "common::noop_elimination", QUANTIZE], ["common::noop_elimination", OURS, QUANTIZE]),
        ([OURS, CLUSTERED, "common::noop_elimination", OURS], ["common::noop_elimination", OURS]),
        ([CLUSTERED, FUSION, THEIRS, THEIRS], [CLUSTERED, FUSION, OURS]),
    ],
)
def test_order_among_compressions(base: list[str], expected: list[str]) -> None:
    pipeline = pass_pipeline(config(), ct.PassPipeline(base, "own"))
    assert (pipeline.passes, str(pipeline)) == (expected, "own")


@pytest.mark.parametrize(
    ("asked", "options", "message"),
    [
        (None, {}, "config must be of type OptimizationConfig. Got <class 'NoneType'>"),
        (cto.OptimizationConfig(cto.OpLinearQuantizerConfig()), {}, "only accept OpPalettizerConfig"),
        (config(), {"select": "some"}, "select is 'some'"),
        (config(), {"strict": 1}, "strict is 1"),
        (config(), {"joint_compression": "yes"}, "joint_compression only supports bool, but got <class 'str'>"),
        (config(), {"base": "default"}, "base is 'default', it must be a ct.PassPipeline"),
    ],
)
def test_wrong_arguments_are_errors_at_once(asked: object, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        pass_pipeline(asked, **options)
    assert "\n" not in str(caught.value)


# What comes of clustered weights


def clustered(shape: tuple[int, ...], values: int = 16, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.standard_normal(values).astype(np.float32)[generator.integers(0, values, shape)]


WEIGHTS = {"plain": clustered((CHANNELS, 8, 3, 3)), "fused": clustered((CHANNELS, CHANNELS, 3, 3), seed=1)}


def network(target: ct.target, factors: np.ndarray | None = None) -> Program:
    """Two convolutions; a bias is added to the second, and it is normalized. ``factors``: of its channels."""
    generator = np.random.default_rng(2)
    gamma = generator.uniform(0.5, 1.5, CHANNELS).astype(np.float32) if factors is None else factors
    others = {"beta": generator.standard_normal(CHANNELS).astype(np.float32)}
    others |= {"mean": np.zeros(CHANNELS, np.float32), "variance": np.ones(CHANNELS, np.float32)}

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 8, 8, 8))], opset_version=target)
    def prog(x):
        y = mb.conv(x=x, weight=mb.const(val=WEIGHTS["plain"], name="plain_weight"), name="plain")
        y = mb.relu(x=y)
        y = mb.conv(x=y, weight=mb.const(val=WEIGHTS["fused"], name="fused_weight"), pad_type="same", name="second")
        y = mb.add(x=y, y=np.arange(CHANNELS, dtype=np.float32).reshape(1, CHANNELS, 1, 1))
        return mb.relu(x=mb.batch_norm(x=y, gamma=gamma, **others, epsilon=np.float32(1e-5), name="norm"))

    return prog


def converted(prog: Program, target: ct.target, pipeline: ct.PassPipeline | None) -> Program:
    model = ct.convert(
        prog,
        pass_pipeline=pipeline,
        minimum_deployment_target=target,
        compute_precision=ct.precision.FLOAT16,
        skip_model_load=True,
    )
    return model._mil_program


def weights(prog: Program) -> dict[str, np.ndarray]:
    """What every convolution reads, decoded by coremltools."""
    return {
        op.name: op.weight.val if op.weight.val is not None else op.weight.op.materialized_val_inference()
        for op in prog.functions["main"].find_ops(op_type="conv")
    }


def tables(prog: Program) -> list[tuple[int, ...]]:
    return [op.lut.shape for op in prog.functions["main"].find_ops(op_type="constexpr_lut_to_dense")]


@pytest.mark.parametrize("base", [None, ct.PassPipeline.DEFAULT_PALETTIZATION])
def test_ios18_fuses_and_has_a_table_for_each_channel(base: ct.PassPipeline | None) -> None:
    dense = converted(network(IOS18), IOS18, None)
    found = converted(network(IOS18), IOS18, pass_pipeline(config(), base))
    assert not found.functions["main"].find_ops(op_type="batch_norm")
    assert tables(found) == [(1, 1, 1, 1, 16, 1), (CHANNELS, 1, 1, 1, 16, 1)]
    expected = weights(dense)
    assert expected.keys() == weights(found).keys()
    for name, weight in weights(found).items():
        assert (weight.dtype, weight.tobytes()) == (np.float16, expected[name].tobytes())


@pytest.mark.parametrize("target", [IOS16, IOS17])
def test_before_ios18_one_table_each_and_only_the_needed_fusion_is_given_up(target: ct.target) -> None:
    found = converted(network(target), target, pass_pipeline(config()))
    assert tables(found) == [(16,), (16,)]
    types_found = [op.op_type for op in found.functions["main"].operations if op.op_type != "const"]
    assert types_found.count("batch_norm") == 1
    assert "add" not in types_found  # it is the bias of the convolution now
    by_shape = {weight.shape: weight for weight in weights(found).values()}
    for weight in WEIGHTS.values():
        assert by_shape[weight.shape].tobytes() == weight.astype(np.float16).tobytes()


def test_before_ios18_what_one_table_can_hold_after_fusion_is_fused() -> None:
    """All channels are scaled alike, so the product has as many values as the weight."""
    prog = network(IOS16, np.full(CHANNELS, 0.7, np.float32))
    found = converted(prog, IOS16, pass_pipeline(config()))
    assert not found.functions["main"].find_ops(op_type="batch_norm")
    assert tables(found) == [(16,), (16,)]


NAMES = ["norm_cast_fp16", "norm", "second", "main/norm_cast_fp16", "fused_weight", "fused_weight_to_fp16"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_those_of_the_saved_model(name: str) -> None:
    """And those before: a convolution is saved by the name of what was fused into it, with that of the cast."""
    asked = config()
    asked.set_op_name(name, None)
    assert clustered_pass(asked, network(IOS16)) == []
    asked = cto.OptimizationConfig(op_name_configs={name: cto.OpPalettizerConfig(mode="unique", weight_threshold=100)})
    found = converted(network(IOS16), IOS16, pass_pipeline(asked, strict=True))
    (palette,) = found.functions["main"].find_ops(op_type="constexpr_lut_to_dense")
    assert palette.outputs[0].shape == WEIGHTS["fused"].shape


def test_strict_still_finds_names_that_mean_nothing() -> None:
    asked = config()
    asked.set_op_name("norm", cto.OpPalettizerConfig(mode="unique", weight_threshold=100))
    asked.set_op_name("nor", cto.OpPalettizerConfig(mode="unique"))
    with pytest.raises(PlanError, match=r"strict: 1 request .*op_name_configs\['nor'\] matches nothing"):
        converted(network(IOS16), IOS16, pass_pipeline(asked, strict=True))


def clustered_pass(asked: cto.OptimizationConfig, prog: Program) -> list[str]:
    """Names of the weights that the pass before the fusions takes."""
    instance = PASS_REGISTRY[CLUSTERED]
    instance.config = asked
    instance.apply(prog)
    return [weight.name for weight in instance.report.palettized]


def test_the_pass_before_the_fusions_takes_only_what_it_must() -> None:
    assert clustered_pass(config(), network(IOS16)) == ["fused_weight"]
    assert clustered_pass(config(), network(IOS18)) == []
    assert clustered_pass(config(**KMEANS), network(IOS16)) == []
    assert clustered_pass(config(weight_threshold=10**6), network(IOS16)) == []


def scaled(kind: str, factor: object) -> Program:
    @mb.program(
        input_specs=[mb.TensorSpec(shape=(1, 8, 8, 8)), mb.TensorSpec(shape=(1, 64, 1, 1))], opset_version=IOS16
    )
    def prog(x, z):
        weight = mb.const(val=clustered((64, 8, 1, 1), seed=4), name="weight")
        if kind == "shared":
            other = mb.transpose(x=mb.conv(x=x, weight=weight), perm=[0, 2, 3, 1])
            return mb.mul(x=mb.conv(x=x, weight=weight), y=factor), mb.add(x=other, y=np.float32(1))
        y = mb.conv(x=x, weight=weight)
        if kind == "read twice":
            return mb.mul(x=y, y=factor), y
        if kind == "dynamic":
            return mb.mul(x=y, y=z)
        return mb.real_div(x=y, y=factor) if kind == "divided" else mb.mul(x=factor, y=y)

    return prog


RAMP = np.linspace(1, 2, 64, dtype=np.float32).reshape(1, 64, 1, 1)


@pytest.mark.parametrize(
    ("kind", "factor", "taken"),
    [
        ("multiplied", RAMP, True),
        ("divided", RAMP[0], True),
        ("multiplied", np.float32(3), False),
        ("multiplied", np.full_like(RAMP, 3), False),
        ("multiplied", np.linspace(1, 2, 8, dtype=np.float32), False),  # along the width: never fused
        ("dynamic", RAMP, False),
        ("read twice", RAMP, False),
        ("shared", RAMP, False),  # fuse_conv_bias would fail on the other reader
    ],
)
def test_which_weights_fusions_spread(kind: str, factor: object, taken: bool) -> None:
    """Whatever is decided, the conversion goes through and the weight ends in a table."""
    assert bool(clustered_pass(config(), scaled(kind, factor))) == taken
    found = converted(scaled(kind, factor), IOS16, pass_pipeline(config()))
    assert tables(found) == [(16,)]
    if taken:
        (weight,) = weights(found).values()
        assert weight.tobytes() == clustered((64, 8, 1, 1), seed=4).astype(np.float16).tobytes()


def test_a_config_in_conflict_changes_nothing() -> None:
    """The pass before the fusions already finds what the one at the end could not do."""
    asked = config()
    asked.set_op_name("plain", cto.OpPalettizerConfig(mode="kmeans", nbits=3, weight_threshold=0))
    prog = network(IOS16)
    before = str(prog)
    instance = PASS_REGISTRY[CLUSTERED]
    instance.config = asked
    with pytest.raises(PlanError, match="nbits=3"):
        instance.apply(prog)
    assert str(prog) == before
    with pytest.raises(ValueError, match="nbits=3"):
        converted(network(IOS16), IOS16, pass_pipeline(asked))


def test_values_that_the_cast_to_fp16_merges() -> None:
    """1,000 values in fp32, 20 in fp16."""
    generator = np.random.default_rng(3)
    near = (1 + generator.integers(0, 20, (64, 128)) / 64 + generator.integers(0, 50, (64, 128)) * 1e-7).astype("f")
    assert np.unique(near).size > 256

    @mb.program(input_specs=[mb.TensorSpec(shape=(2, 128))], opset_version=IOS16)
    def prog(x):
        return mb.linear(x=x, weight=near)

    found = converted(prog, IOS16, pass_pipeline(config()))
    assert tables(found) == [(64,)]
    (palette,) = found.functions["main"].find_ops(op_type="constexpr_lut_to_dense")
    assert palette.materialized_val_inference().tobytes() == near.astype(np.float16).tobytes()


def test_groups_of_clustered_weights() -> None:
    """Every 8 channels have 16 values of their own."""
    parts = [clustered((8, 128), seed=seed) for seed in range(20)]

    @mb.program(input_specs=[mb.TensorSpec(shape=(2, 128))], opset_version=IOS18)
    def prog(x):
        return mb.linear(x=x, weight=np.concatenate(parts))

    asked = config(granularity="per_grouped_channel", group_size=8)
    found = converted(prog, IOS18, pass_pipeline(asked))
    assert tables(found) == [(20, 1, 16, 1)]
    (palette,) = found.functions["main"].find_ops(op_type="constexpr_lut_to_dense")
    assert palette.materialized_val_inference().tobytes() == np.concatenate(parts).astype(np.float16).tobytes()


@pytest.mark.parametrize("joint", [False, True])
def test_pruned_weights(joint: bool) -> None:
    """Sparse before, sparse after; with ``joint_compression`` what is left has a palette."""
    left = np.random.default_rng(7).random((64, 128)) < 0.3
    weight = np.where(left, clustered((64, 128), seed=6), np.float32(0))

    @mb.program(input_specs=[mb.TensorSpec(shape=(2, 128), dtype=types.fp32)], opset_version=IOS18)
    def prog(x):
        return mb.linear(x=x, weight=weight)

    pipeline = pass_pipeline(config(), ct.PassPipeline.DEFAULT_PRUNING, joint_compression=joint)
    main = converted(prog, IOS18, pipeline).functions["main"]
    (sparse,) = main.find_ops(op_type="constexpr_sparse_to_dense")
    assert sparse.materialized_val_inference().tobytes() == weight.astype(np.float16).tobytes()
    assert len(main.find_ops(op_type="constexpr_lut_to_sparse")) == int(joint)
    assert not main.find_ops(op_type="constexpr_lut_to_dense")


def test_a_traced_network() -> None:
    """Weights clustered in torch, convolution and normalization fused, every weight a look-up table."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(8, CHANNELS, 3), torch.nn.BatchNorm2d(CHANNELS), torch.nn.ReLU())
    net.append(torch.nn.ConvTranspose2d(CHANNELS, 16, 3)).append(torch.nn.BatchNorm2d(16)).eval()
    with torch.no_grad():
        for layer in net:
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.weight.uniform_(0.5, 1.5)
                layer.running_var.uniform_(0.5, 1.5)
            elif hasattr(layer, "weight"):
                layer.weight.copy_(torch.from_numpy(clustered(tuple(layer.weight.shape))))
    traced = torch.jit.trace(net, torch.zeros(1, 8, 8, 8))

    def convert(pipeline: ct.PassPipeline) -> Program:
        inputs = [ct.TensorType(shape=(1, 8, 8, 8))]
        options = {"minimum_deployment_target": IOS18, "skip_model_load": True}
        return ct.convert(traced, inputs=inputs, pass_pipeline=pipeline, **options)._mil_program

    found, dense = (
        convert(pass_pipeline(config())).functions["main"],
        convert(ct.PassPipeline.DEFAULT).functions["main"],
    )
    assert not found.find_ops(op_type="batch_norm")
    for kind in ("conv", "conv_transpose"):
        (op,), (expected,) = found.find_ops(op_type=kind), dense.find_ops(op_type=kind)
        assert op.weight.op.op_type == "constexpr_lut_to_dense"
        assert op.weight.op.materialized_val_inference().tobytes() == expected.weight.val.tobytes()
