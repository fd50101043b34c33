"""Which constants are palettized, and what the report says of the others."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from coremltools.proto import MIL_pb2 as MIL
from mil_messages import block, const, decisions, op, planned, program, value
from packages import blocks, constants, differences, read_spec, spec_file

from mil_palettize import ConfigError, OpPalettizerConfig, OptimizationConfig, PlanError, Report
from mil_palettize.planning.plan import Decision
from mil_palettize.program.roles import is_weight_input

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = sorted(path.stem for path in (ROOT / "fixtures").glob("*.mlpackage"))
FOUR = OpPalettizerConfig(nbits=4)
W = (64, 48)
Palettize = Callable[..., tuple[Path, Report]]


def decide(*operations: MIL.Operation, **options: object) -> Decision:
    """What becomes of the constant ``w``; 4 bits unless a config is given."""
    options = options if "config" in options else {"nbits": 4, **options}
    return decisions(planned(program(*operations), **options))["w"]


# By default: constants that act as weights


@pytest.mark.parametrize(
    ("op_type", "input_name"),
    [
        ("conv", "weight"),
        ("conv_transpose", "weight"),
        ("linear", "weight"),
        ("matmul", "x"),
        ("matmul", "y"),
        ("einsum", "values"),
        ("lstm", "weight_ih"),
        ("lstm", "weight_hh"),
        ("lstm", "weight_ih_back"),
        ("lstm", "weight_hh_back"),
        ("gru", "weight_ih"),
        ("gru", "weight_hh"),
        ("rnn", "weight_ih"),
        ("rnn", "weight_hh"),
        ("gather", "x"),
        ("gather_along_axis", "x"),
        ("gather_nd", "x"),
    ],
)
def test_weights_are_taken(op_type: str, input_name: str) -> None:
    decision = decide(const("w", shape=W), op(op_type, "reader", {input_name: "w"}), strict=True)
    assert (decision.specification.mode, decision.specification.nbits, decision.reason) == ("kmeans", 4, "")
    assert is_weight_input(op_type, input_name)


@pytest.mark.parametrize(
    ("op_type", "input_name"),
    [
        ("add", "y"),
        ("mul", "x"),
        ("sub", "y"),
        ("real_div", "y"),
        ("select", "cond"),
        ("concat", "values"),
        ("conv", "bias"),
        ("linear", "bias"),
        ("lstm", "bias"),
        ("lstm", "initial_h"),
        ("batch_norm", "gamma"),
        ("layer_norm", "gamma"),
        ("gather", "indices"),
        ("scaled_dot_product_attention", "attn_mask"),
        ("future_op", "weight"),
    ],
)
def test_other_constants_are_left_alone_and_reported(op_type: str, input_name: str) -> None:
    made = const("w", shape=W), op(op_type, "reader", {input_name: ["w", "x"] if op_type == "concat" else "w"})
    decision = decide(*made)
    assert decision.specification is None
    assert not decision.unmet
    assert decision.reason == (
        f"does not act as a weight (read by {op_type} {input_name!r}); name it or select 'all' to take it"
    )
    assert decide(*made, select="all").specification is not None


def test_one_reader_as_a_weight_is_enough() -> None:
    made = const("w", shape=W), op("add", "a", {"x": "x", "y": "w"}), op("linear", "l", {"x": "x", "weight": "w"})
    assert decide(*made).specification is not None


@pytest.mark.parametrize(
    "config",
    [
        OptimizationConfig(global_config=None, op_name_configs={"w": FOUR}),
        OptimizationConfig(global_config=None, op_name_configs={"reader": FOUR}),
        OptimizationConfig(global_config=None, op_type_configs={"add": FOUR}),
        OptimizationConfig(global_config=OpPalettizerConfig(nbits=2), op_name_configs={"main/reader": FOUR}),
    ],
)
def test_naming_always_includes(config: OptimizationConfig) -> None:
    decision = decide(const("w", shape=W), op("add", "reader", {"x": "x", "y": "w"}), config=config, strict=True)
    assert decision.specification.nbits == 4


def test_naming_an_op_in_between_includes() -> None:
    made = (
        const("w", shape=(48, 64)),
        op("transpose", "turned", {"x": "w", "perm": value(np.array([1, 0]))}, shape=W),
        op("add", "reader", {"x": "x", "y": "turned"}),
    )
    assert decide(*made).specification is None
    for config in (
        OptimizationConfig(op_name_configs={"turned": FOUR}),
        OptimizationConfig(op_type_configs={"transpose": FOUR}),
    ):
        assert decide(*made, config=config, strict=True).specification.nbits == 4


# Never, whatever is selected


@pytest.mark.parametrize("select", ["weights", "all"])
@pytest.mark.parametrize(
    ("dtype", "reason"),
    [
        ("FLOAT16", ""),
        ("FLOAT32", ""),
        ("INT8", "int8 values; palettes hold fp16 and fp32"),
        ("INT32", "int32 values; palettes hold fp16 and fp32"),
        ("BOOL", "bool values; palettes hold fp16 and fp32"),
        ("BFLOAT16", "bf16 values; palettes hold fp16 and fp32"),
    ],
)
def test_types(dtype: str, reason: str, select: str) -> None:
    made = const("w", shape=W, dtype=dtype), op("linear", "l", {"x": "x", "weight": "w"})
    decision = decide(*made, select=select)
    assert (decision.specification is None, decision.reason) == (bool(reason), reason)


@pytest.mark.parametrize("select", ["weights", "all"])
@pytest.mark.parametrize("shape", [(4096,), (1, 4096), (4096, 1), (64, 64), (4, 4, 4, 4, 16)])
def test_ranks(shape: tuple[int, ...], select: str) -> None:
    decision = decide(const("w", shape=shape), op("linear", "l", {"x": "x", "weight": "w"}), select=select)
    reason = "rank 1; palettes are made of weights of rank 2 and more" if len(shape) == 1 else ""
    assert (decision.specification is None, decision.reason) == (bool(reason), reason)


@pytest.mark.parametrize("select", ["weights", "all"])
@pytest.mark.parametrize(("shape", "threshold"), [((64, 32), 2048), ((2, 5), 10), ((64, 48), 3072)])
def test_threshold_is_exclusive(shape: tuple[int, int], threshold: int, select: str) -> None:
    made = program(const("w", shape=shape), op("linear", "l", {"x": "x", "weight": "w"}))
    at = planned(made, nbits=1, weight_threshold=threshold, select=select)
    assert (at.decisions, at.small) == ([], 1)
    below = planned(made, nbits=1, weight_threshold=threshold - 1, select=select)
    assert (len(below.decisions), below.small) == (1, 0)


def test_default_threshold() -> None:
    made = program(
        const("small", shape=(64, 32)), const("large", shape=(64, 33)),
        op("linear", "l", {"x": "x", "weight": "small"}), op("linear", "m", {"x": "x", "weight": "large"}),
    )  # fmt: skip
    plan = planned(made, nbits=4)
    assert ([d.weight.name for d in plan.decisions], plan.small) == (["large"], 1)
    # Also where nothing is asked for.
    plan = planned(made, OptimizationConfig())
    assert ([d.weight.name for d in plan.decisions], plan.small) == (["large"], 1)


def test_bytes_of_small_weights_that_a_lower_threshold_takes() -> None:
    made = program(
        const("a", shape=(32, 32)), const("again", shape=(32, 32)), const("bias", shape=(32,), offset=128),
        const("x0", shape=(32, 32), offset=192), const("b", shape=(8, 8), offset=256),
        const("large", shape=W, offset=320),
        op("linear", "l", {"x": "x", "weight": "a", "bias": "bias"}), op("linear", "k", {"x": "x", "weight": "again"}),
        op("add", "m", {"x": "x", "y": "x0"}), op("conv", "c", {"x": "x", "weight": "b"}),
        op("linear", "n", {"x": "x", "weight": "large"}),
    )  # fmt: skip
    # A record counts once, neither the bias nor what is added is a weight, and what nobody asks for is not missed.
    assert planned(made, nbits=4).small_nbytes == 2 * (32 * 32 + 8 * 8)
    assert planned(made, OptimizationConfig(op_type_configs={"conv": FOUR})).small_nbytes == 2 * 8 * 8
    assert planned(made, nbits=4, weight_threshold=64).small_nbytes == 2 * 8 * 8
    assert planned(made, nbits=4, weight_threshold=0).small_nbytes == 0


def test_thresholds_are_those_of_each_request() -> None:
    made = program(
        const("w", shape=(32, 32)), const("v", shape=(32, 32)),
        op("linear", "l", {"x": "x", "weight": "w"}), op("conv", "c", {"x": "x", "weight": "v"}),
    )  # fmt: skip
    low = OpPalettizerConfig(nbits=4, weight_threshold=1000)
    plan = planned(made, OptimizationConfig(global_config=FOUR, op_type_configs={"conv": low}))
    assert (list(decisions(plan)), plan.small) == (["v"], 1)


def test_named_constant_below_its_threshold_is_reported() -> None:
    made = program(const("w", shape=(32, 32)), op("linear", "l", {"x": "x", "weight": "w"}))
    config = OptimizationConfig(op_name_configs={"w": FOUR})
    decision = decisions(planned(made, config))["w"]
    assert decision.reason == "1,024 elements, not above weight_threshold=2,048"
    with pytest.raises(PlanError, match="'main/w': 1,024 elements, not above weight_threshold=2,048"):
        planned(made, config, strict=True)


@pytest.mark.parametrize("select", ["weights", "all"])
def test_what_feeds_a_constexpr_is_left_alone(select: str) -> None:
    made = (
        const("w", shape=W),
        op("constexpr_blockwise_shift_scale", "scaled", {"data": "w", "scale": value(np.ones((1, 1)))}, shape=W),
        op("linear", "l", {"x": "x", "weight": "scaled"}),
    )
    found = decisions(planned(program(*made), nbits=4, select=select))
    assert found["w"].reason == "feeds constexpr_blockwise_shift_scale"
    assert found["scaled"].reason == "already compressed (constexpr_blockwise_shift_scale); decompress it first"


def test_block_output_is_left_alone_even_when_named() -> None:
    body = block(const("w", shape=W), op("linear", "l", {"x": "x", "weight": "w"}), outputs=["l", "w"])
    made = program(op("cond", "c", {"pred": "p"}, outputs=[("c", (1, 64)), ("d", W)], blocks=[body, block()]))
    config = OptimizationConfig(op_name_configs={"w": FOUR})
    assert decisions(planned(made, config))["w"].reason.startswith("is an output of its block")
    with pytest.raises(PlanError, match="'main/w': is an output of its block"):
        planned(made, config, strict=True)


def test_value_whose_type_differs_from_its_op() -> None:
    odd = const("w", shape=W)
    odd.outputs[0].type.tensorType.dataType = MIL.DataType.Value("FLOAT32")
    decision = decide(odd, op("linear", "l", {"x": "x", "weight": "w"}))
    assert decision.reason == "its value's type differs from its output's"


@pytest.mark.parametrize("nbits", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("dtype", ["FLOAT16", "FLOAT32"])
def test_palette_that_is_not_smaller(dtype: str, nbits: int) -> None:
    """At the first number of elements where indices and table are less than the dense array."""
    size = {"FLOAT16": 2, "FLOAT32": 4}[dtype]
    for count in range(2, 700):
        smaller = -(-count * nbits // 8) + 2**nbits * size < count * size
        made = const("w", shape=(1, count), dtype=dtype), op("linear", "l", {"x": "x", "weight": "w"})
        decision = decide(*made, nbits=nbits, weight_threshold=0)
        assert (decision.specification is not None) == smaller, count
        assert decision.reason.startswith("its palette would take") != smaller


def test_not_smaller_is_no_unmet_request() -> None:
    """It would do what was asked and be of no use: strict does not mind."""
    made = const("w", shape=(16, 16)), op("linear", "l", {"x": "x", "weight": "w"})
    decision = decide(*made, nbits=8, weight_threshold=0, strict=True)
    assert decision.reason == "its palette would take 768 bytes, the weight takes 512"


def test_unknown_selection(fixtures: Path, palettize: Palettize) -> None:
    with pytest.raises(ConfigError, match=r"^select is 'some', allowed are \('weights', 'all'\)$"):
        palettize(fixtures / "extras_ios16.mlpackage", nbits=4, select="some")


# Whole packages


ADDED = "does not act as a weight (read by {} 'y'); name it or select 'all' to take it"
NON_WEIGHTS = {
    "positions": ADDED.format("add"),
    "mask": ADDED.format("add"),
    "gain_3d": ADDED.format("mul"),
    "anchors": ADDED.format("add"),
    "strides": ADDED.format("mul"),
    "wide_bias": "rank 1; palettes are made of weights of rank 2 and more",
    "int_table": "int32 values; palettes hold fp16 and fp32",
    "output_const": "is an output of its block, which a compressed constant cannot be",
}


@pytest.mark.parametrize("name", ["non_weights_ios16", "non_weights_ios18"])
def test_masks_anchors_and_tables_are_left_alone(name: str, fixtures: Path, palettize: Palettize) -> None:
    _, report = palettize(fixtures / f"{name}.mlpackage", nbits=4)
    assert [w.name for w in report.palettized] == ["wide_weight"]
    assert {w.name: w.reason for w in report.skipped} == NON_WEIGHTS
    text = report.to_text(200)
    assert all(name in text for name in NON_WEIGHTS)


@pytest.mark.parametrize("name", ["non_weights_ios16", "non_weights_ios18"])
def test_select_all_takes_what_coremltools_takes(name: str, fixtures: Path, palettize: Palettize) -> None:
    """But for the mask: coremltools fails on its -inf."""
    source = fixtures / f"{name}.mlpackage"
    _, report = palettize(source, nbits=4, select="all")
    assert {w.name for w in report.palettized} == {"wide_weight", "positions", "gain_3d", "anchors", "strides"}
    reasons = {w.name: w.reason for w in report.skipped}
    assert reasons.keys() == {"mask", "wide_bias", "int_table", "output_const"}
    assert "has 0 NaN and 1225 infinite values" in reasons["mask"]
    with pytest.raises(PlanError, match="strict: 1 weight cannot be palettized as asked: 'main/mask': ") as error:
        palettize(source, nbits=4, select="all", strict=True)
    assert "\n" not in str(error.value)


def test_nan_is_reported_and_an_error_under_strict(fixtures: Path, palettize: Palettize, tmp_path: Path) -> None:
    source = fixtures / "odd_values_ios18.mlpackage"
    _, report = palettize(source, nbits=4)
    (skipped,) = report.skipped
    assert (skipped.name, skipped.status, skipped.bytes_after) == ("nan_weight", "skipped", skipped.bytes_before)
    assert "has 1 NaN and 0 infinite values" in skipped.reason
    before = sorted(tmp_path.iterdir())
    with pytest.raises(PlanError, match="'main/nan_weight'"):
        palettize(source, nbits=4, strict=True)
    assert sorted(tmp_path.iterdir()) == before  # nothing was left behind


def test_weights_behind_shape_ops_are_taken(fixtures: Path, palettize: Palettize) -> None:
    _, report = palettize(fixtures / "const_chains_ios16.mlpackage", nbits=4, strict=True)
    assert {w.name for w in report.palettized} == {
        *("transposed", "squeezed", "sliced", "split_weight", "joined_a", "joined_b", "reshaped", "stored_half")
    }
    readers = {w.name: w.consumers for w in report.weights}
    assert readers["reshaped"] == [("conv", "weight")]
    assert readers["stored_half"] == [("matmul", "y")]
    assert readers["split_weight"] == [("linear", "weight")] * 2


def test_weights_of_loops(fixtures: Path, palettize: Palettize) -> None:
    """The changing state is a constant only before the first round."""
    _, report = palettize(fixtures / "loop_ios16.mlpackage", nbits=4)
    assert {w.name for w in report.palettized} == {"outer_weight", "inner_weight", "invariant_weight"}
    assert {w.name: w.consumers for w in report.skipped} == {"memory_0": [("while_loop", "loop_vars")]}


@pytest.mark.parametrize("select", ["weights", "all"])
@pytest.mark.parametrize("threshold", [0, 2048])
@pytest.mark.parametrize("name", FIXTURES)
def test_every_constant_is_accounted_for(
    name: str, threshold: int, select: str, fixtures: Path, palettize: Palettize
) -> None:
    """Each is in the report if it is above the threshold, palettized or with a reason, and counted if it is not."""
    source = fixtures / f"{name}.mlpackage"
    _, report = palettize(source, nbits=4, weight_threshold=threshold, select=select, dry_run=True)
    sizes = [
        int(np.prod([d.constant.size for d in o.outputs[0].type.tensorType.dimensions]))
        for placed in blocks(read_spec(source))
        for o in placed.block.operations
        if o.type == "const" or o.type.startswith("constexpr_")
    ]
    assert len(report.weights) == sum(size > threshold for size in sizes)
    assert report.small == sum(size <= threshold for size in sizes)
    assert all(bool(w.reason) == (w.status == "skipped") for w in report.weights)


def test_every_constant_of_real_packages_is_accounted_for(shared_models: Path, palettize: Palettize) -> None:
    for source in sorted(shared_models.glob("*.mlpackage")):
        _, report = palettize(source, nbits=4, dry_run=True)
        above = [name for (_, _, _, name), (o, decode) in constants(source).items() if decode().size > 2048]
        assert sorted(w.name for w in report.weights) == sorted(above), source.name


def test_constant_with_attributes_is_left_alone(fixtures: Path, tmp_path: Path, palettize: Palettize) -> None:
    """The op that replaces a constant has no place for what a later version may have attached to it."""
    source = tmp_path / "attributes.mlpackage"
    shutil.copytree(fixtures / "shared_ios16.mlpackage", source)
    spec = read_spec(source)
    for each in spec.mlProgram.functions["main"].block_specializations["CoreML6"].operations:
        if each.type == "const" and each.attributes["val"].WhichOneof("value") == "blobFileValue":
            each.attributes["sensitivity"].CopyFrom(each.attributes["name"])
    spec_file(source).write_bytes(spec.SerializeToString())
    written, report = palettize(source, nbits=4)
    assert {w.reason for w in report.skipped} == {"has attributes that a palette would lose (sensitivity)"}
    assert differences(source, written) == []
