"""Each fixture holds what its row of ``fixtures/README.md`` says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry
from coremltools.proto import MIL_pb2 as MIL
from packages import (
    Key,
    blob_users,
    blocks,
    constants,
    decode_value,
    manifest,
    models,
    named_ops,
    read_spec,
    weights_dir,
)

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
PACKAGES = sorted(p.stem for p in FIXTURES.glob("*.mlpackage"))
THRESHOLD = 2048


def fixture(name: str) -> Path:
    return FIXTURES / f"{name}.mlpackage"


def key(name: str, block: str = "", function: str = "main", model: str = "") -> Key:
    return model, function, block, name


def large(package: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Output name -> (dtype, shape) of all constants above coremltools' threshold."""
    arrays = {k[-1]: decode() for k, (_, decode) in constants(fixture(package)).items()}
    return {n: (str(a.dtype), a.shape) for n, a in arrays.items() if a.size > THRESHOLD}


def dense(package: str, name: str, **place: str) -> np.ndarray:
    return constants(fixture(package))[key(name, **place)][1]()


def distinct(array: np.ndarray) -> int:
    # Not np.unique: np.sort of float16 leaves repeated values out of order with numpy 2.3.5 on some CPUs.
    return len(set(array.reshape(-1).tolist()))


def readers(package: str, name: str) -> list[tuple[str, str]]:
    """(op type, input) of each op that reads ``name``, in nested blocks too."""
    return [
        (op.type, parameter)
        for placed in blocks(read_spec(fixture(package)))
        for op, _ in named_ops(placed.block)
        for parameter, argument in sorted(op.inputs.items())
        if name in [binding.name for binding in argument.arguments]
    ]


@pytest.mark.parametrize("package", [p for p in PACKAGES if p.startswith("conv_")])
def test_conv_nets(package: str) -> None:
    dtype = "float16" if "fp16" in package else "float32"
    shapes = {
        "stem_weight": (24, 16, 3, 3), "depthwise_weight": (48, 1, 7, 7), "up_weight": (48, 8, 4, 4),
        "hidden_weight": (320, 8), "head_weight": (10, 320),
    }  # fmt: skip
    assert large(package) == {name: (dtype, shape) for name, shape in shapes.items()}
    assert dense(package, "pointwise_weight").size == 1152
    assert [readers(package, name) for name in ("stem_weight", "up_weight", "head_weight", "norm_mean")] == [
        [("conv", "weight")], [("conv_transpose", "weight")], [("linear", "weight")], [("batch_norm", "mean")],
    ]  # fmt: skip
    assert 0.019 < dense(package, "stem_weight").std() < 0.021


@pytest.mark.parametrize(
    ("package", "dtype"), [("recurrent_fp16_ios17", "float16"), ("recurrent_fp32_ios16", "float32")]
)
def test_recurrent(package: str, dtype: str) -> None:
    names = ["lstm_weight_ih", "lstm_weight_hh", "gru_weight_ih", "gru_weight_hh"]
    assert {name: found[0] for name, found in large(package).items()} == dict.fromkeys(names, dtype)
    assert readers(package, "lstm_weight_hh") == [("lstm", "weight_hh")]
    assert readers(package, "gru_weight_ih") == [("gru", "weight_ih")]


@pytest.mark.parametrize(
    ("package", "reader"),
    [("embedding_matmul_ios16", ("matmul", "y")), ("embedding_linear_ios16", ("linear", "weight"))],
)
def test_embedding_tables_have_two_readers(package: str, reader: tuple[str, str]) -> None:
    assert large(package) == {"table": ("float16", (128, 32))}
    assert readers(package, "table") == [("gather", "x"), reader]
    assert readers(package, "ids") == [("gather", "indices")]


def test_shared() -> None:
    assert readers("shared_ios16", "twice_weight") == [("linear", "weight")] * 2
    twins = [key("twin_a"), key("twin_b")]
    assert twins in blob_users(fixture("shared_ios16")).values()
    assert [readers("shared_ios16", k[-1])[0][0] for k in twins] == ["linear", "matmul"]


def test_multifunction() -> None:
    spec = read_spec(fixture("multifunction_ios18"))
    assert sorted(spec.mlProgram.functions) == ["decode", "prefill"]
    assert spec.description.defaultFunctionName == "prefill"
    users = list(blob_users(fixture("multifunction_ios18")).values())
    assert [key("base_weight", function=f) for f in ("decode", "prefill")] in users
    decode, prefill = (dense("multifunction_ios18", "adapter_weight", function=f) for f in ("decode", "prefill"))
    assert not np.array_equal(decode, prefill)


def test_loop() -> None:
    assert set(large("loop_ios16")) == {"outer_weight", "inner_weight", "invariant_weight", "memory_0"}
    assert key("inner_weight", block="loop_0#1") in constants(fixture("loop_ios16"))
    (loop,) = [op for b in blocks(read_spec(fixture("loop_ios16"))) for op in b.block.operations if op.blocks]
    assert [binding.name for binding in loop.inputs["loop_vars"].arguments][2:] == ["invariant_weight", "memory_0"]
    body = loop.blocks[1]
    invariant, memory = [inner.name for inner in body.inputs][2:]
    assert body.outputs[2:] == [invariant, "memory_next"]
    reads = {(op.type, b.name) for op in body.operations for a in op.inputs.values() for b in a.arguments}
    assert {("linear", "outer_weight"), ("linear", "inner_weight"), ("matmul", invariant), ("matmul", memory)} <= reads


def test_branches() -> None:
    found = constants(fixture("branches_ios16"))
    places = [key("branch_weight", block=f"chosen#{number}") for number in (0, 1)]
    then, other = (found[place][1]() for place in places)
    assert not np.array_equal(then, other)
    assert readers("branches_ios16", "branch_weight") == [("linear", "weight")] * 2
    assert readers("branches_ios16", "both_weight") == [("linear", "weight")] * 2
    assert key("both_weight") in found


def test_stateful() -> None:
    spec = read_spec(fixture("stateful_ios18"))
    assert [state.name for state in spec.description.state] == ["memory"]
    types = [op.type for placed in blocks(spec) for op in placed.block.operations]
    assert types.count("read_state") == 2
    assert types.count("write_state") == 1
    assert set(large("stateful_ios18")) == {"update_weight", "read_weight"}


def test_pipelines() -> None:
    assert [f.name for f in sorted(weights_dir(fixture("pipeline_ios17")).iterdir())] == [
        "0-weight.bin",
        "1-weight.bin",
    ]
    first, second = (dense("pipeline_ios17", "weight", model=stage) for stage in ("0", "1"))
    assert not np.array_equal(first, second)
    stages = [(label, m.specificationVersion) for label, m in models(read_spec(fixture("pipeline_ios17")))]
    assert stages == [("", 8), ("0", 7), ("1", 8)]
    kinds = [m.WhichOneof("Type") for _, m in models(read_spec(fixture("detector_ios16")))]
    assert kinds == ["pipeline", "mlProgram", "nonMaximumSuppression"]
    assert dense("detector_ios16", "confidence_weight", model="0").shape == (80, 48)


@pytest.mark.parametrize("package", ["non_weights_ios16", "non_weights_ios18"])
def test_non_weights(package: str) -> None:
    assert set(large(package)) == {
        "positions", "mask", "gain_3d", "anchors", "strides", "wide_weight", "wide_bias", "int_table", "output_const",
    }  # fmt: skip
    assert np.isneginf(dense(package, "mask")).sum() == 50 * 49 // 2
    assert dense(package, "wide_bias").shape == (2304,)
    (placed,) = blocks(read_spec(fixture(package)))
    assert "output_const" in placed.block.outputs
    assert readers(package, "output_const") == []
    op = constants(fixture(package))[key("int_table")][0]
    assert op.attributes["val"].HasField("blobFileValue") == package.endswith("ios18")
    assert dense(package, "int_table").dtype == np.int32
    consumers = [readers(package, n)[0] for n in ("positions", "mask", "gain_3d", "anchors", "strides", "wide_bias")]
    assert consumers == [("add", "y"), ("add", "y"), ("mul", "y"), ("add", "y"), ("mul", "y"), ("linear", "bias")]


def test_odd_values() -> None:
    weights = {name: dense("odd_values_ios18", name) for name in large("odd_values_ios18")}
    assert np.isnan(weights.pop("nan_weight")).sum() == 1
    assert all(np.isfinite(array).all() for array in weights.values())
    assert distinct(weights["equal_weight"]) == 1
    groups = weights["grouped16_weight"].reshape(4, -1)
    assert [distinct(group) for group in groups] == [16] * 4
    assert distinct(weights["grouped16_weight"]) > 16
    assert distinct(weights["values200_weight"]) == 200
    assert np.isinf(np.ptp(weights["huge_weight"]))  # in fp16
    assert weights["indivisible_weight"].shape == (63, 48)


def test_const_chains() -> None:
    names = ["transposed", "squeezed", "sliced", "split_weight", "joined_a", "joined_b", "reshaped", "stored_half"]
    assert set(large("const_chains_ios16")) == set(names)
    kinds = [readers("const_chains_ios16", name)[0][0] for name in names]
    assert kinds == [
        "transpose", "squeeze", "slice_by_index", "split", "concat", "concat", "expand_dims", "cast",
    ]  # fmt: skip
    ends = {"transpose": "linear", "squeeze": "linear", "slice": "linear", "split_0": "linear", "split_1": "linear"}
    ends |= {"join": "linear", "expand": "reshape", "reshape": "conv", "widened": "matmul"}
    assert {name: readers("const_chains_ios16", name)[0][0] for name in ends} == ends


def test_palettized() -> None:
    found = constants(fixture("palettized_ios16"))
    op, decode = found[key("a_weight_palettized")]
    assert op.type == "constexpr_lut_to_dense"
    assert set(op.attributes) == {"name", "indices", "lut", "shape"}
    assert distinct(decode()) <= 16
    op, decode = constants(fixture("palettized_grouped_ios18"))[key("a_weight_palettized")]
    types = {name: op.inputs[name].arguments[0].value.type.tensorType for name in ("indices", "lut")}
    assert types["indices"].dataType == MIL.DataType.Value("UINT3")
    assert [d.constant.size for d in types["lut"].dimensions] == [4, 1, 8, 1]
    for package in ("palettized_ios16", "palettized_grouped_ios18", "quantized_sparse_ios16"):
        assert constants(fixture(package))[key("kept_weight")][0].type == "const"


def test_quantized_and_sparse() -> None:
    found = constants(fixture("quantized_sparse_ios16"))
    assert found[key("a_weight_quantized")][0].type == "constexpr_affine_dequantize"
    op, decode = found[key("b_weight_sparsified")]
    assert op.type == "constexpr_sparse_to_dense"
    assert abs(np.mean(decode() == 0) - 0.5) < 0.001


def test_joint_forms_are_nested() -> None:
    found = constants(fixture("joint_ios18"))
    bound = {
        (name, found[key(name)][0].inputs[parameter].arguments[0].name)
        for name, parameter in (
            ("scaled_lut_weight", "data"),
            ("int8_lut_weight", "lut"),
            ("sparse_lut_weight", "mask"),
            ("sparse_lut_weight", "nonzero_data"),
        )
    }
    assert bound == {
        ("scaled_lut_weight", "scaled_lut_palette"),
        ("int8_lut_weight", "int8_lut_table"),
        ("sparse_lut_weight", "sparse_lut_palette_0"),
        ("sparse_lut_weight", "sparse_lut_palette_1"),
    }
    assert len(large("joint_ios18")) == 8


def test_flexible_and_images() -> None:
    array = read_spec(fixture("flexible_ios16")).description.input[0].type.multiArrayType
    assert [(r.lowerBound, r.upperBound) for r in array.shapeRange.sizeRanges] == [(1, 32), (48, 48)]
    description = read_spec(fixture("image_classifier_ios15")).description
    sizes = description.input[0].type.imageType.enumeratedSizes.sizes
    assert [(s.width, s.height) for s in sizes] == [(32, 32), (64, 64)]
    assert description.predictedFeatureName == "classLabel"
    (placed,) = blocks(read_spec(fixture("image_classifier_ios15")))
    classify = next(op for op in placed.block.operations if op.type == "classify")
    labels = decode_value(classify.inputs["classes"].arguments[0].value, Path())
    assert labels.tolist() == ["cat", "dog", "fish", "none of these"]


def test_future_op() -> None:
    types = {op.type for placed in blocks(read_spec(fixture("future_op_ios17"))) for op in placed.block.operations}
    assert "future_op" in types
    assert "future_op" not in SSAOpRegistry.core_ops


def test_extras() -> None:
    package = fixture("extras_ios16")
    item = next(i for i in manifest(package)["itemInfoEntries"].values() if i["author"] == "com.example")
    assert (package / "Data" / item["path"]).read_text() == "Kept as it is.\n"
    metadata = read_spec(package).description.metadata
    assert [metadata.author, metadata.license, metadata.versionString] == ["A. Author", "CC0-1.0", "1.2.3"]
    assert metadata.userDefined["com.example.key"] == "value"
    assert "ünïcode" in metadata.shortDescription


def test_language_model() -> None:
    shapes = {f"layers_{i}_{n}_proj_weight": (72, 32) for i in range(2) for n in ("gate", "up")}
    shapes |= {f"layers_{i}_down_proj_weight": (32, 72) for i in range(2)} | {"embed_tokens_weight": (72, 32)}
    assert large("language_model_ios18") == {name: ("float16", shape) for name, shape in shapes.items()}
    assert readers("language_model_ios18", "embed_tokens_weight") == [("gather", "x"), ("linear", "weight")]
    each = [("read_state", "input"), ("write_state", "input"), ("read_state", "input")]
    assert [readers("language_model_ios18", state) for state in ("keys", "values")] == [each * 2] * 2
    assert dense("language_model_ios18", "layers_1_k_proj_weight").shape == (16, 32)


def test_segmentation() -> None:
    shapes = {"down_1_weight": (32, 24, 3, 3), "up_0_weight": (32, 24, 2, 2), "mixed_weight": (48, 48, 1, 1),
              "up_1_weight": (48, 12, 2, 2)}  # fmt: skip
    assert large("segmentation_ios16") == {name: ("float16", shape) for name, shape in shapes.items()}
    assert dense("segmentation_ios16", "down_0_weight").size == 648
    (mask,) = read_spec(fixture("segmentation_ios16")).description.output
    assert (mask.name, mask.type.multiArrayType.dataType) == ("mask", mask.type.multiArrayType.INT32)
