"""``palettize_weights(mlmodel, …)`` and ``decompress_weights``: models of every kind, and names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import Program, Var
from coremltools.models import datatypes
from coremltools.models.neural_network import NeuralNetworkBuilder
from door_networks import (
    IOS15,
    IOS16,
    IOS18,
    MLModel,
    branches,
    config,
    converted,
    layers,
    loop,
    names,
    pruned,
    quantized,
    renamed,
    taken,
    tied,
)
from packages import constants, differences

from mil_palettize import decompress_weights, palettize_weights
from mil_palettize.errors import ModelTypeError

LUT, SPARSE_LUT = "constexpr_lut_to_dense", "constexpr_lut_to_sparse"


def compressed(model: MLModel) -> dict[tuple[str, ...], str]:
    """(model, function, block, name) -> op type, of compressed constants."""
    found = constants(Path(model.package_path))
    return {key: op.type for key, (op, _) in found.items() if op.type.startswith("constexpr_")}


def decoded(model: MLModel) -> dict[tuple[str, ...], np.ndarray]:
    return {key: decode() for key, (_, decode) in constants(Path(model.package_path)).items()}


def loaded(path: Path, **options: object) -> MLModel:
    return MLModel(str(path), skip_model_load=True, **options)


# Names


@pytest.mark.parametrize("build", [layers, branches, loop, tied])
@pytest.mark.parametrize("target", [IOS16, IOS18])
def test_names_are_those_of_coremltools(build: Callable[[ct.target], Program], target: ct.target) -> None:
    model = converted(build, target)
    mine = names(palettize_weights(model, config()))
    assert mine == names(cto.palettize_weights(model, config()))
    assert len(mine.made) >= 1
    assert mine.read


@pytest.mark.parametrize("compress", [pruned, quantized])
@pytest.mark.parametrize("build", [layers, branches, loop, tied])
def test_names_of_joint_compression(
    build: Callable[[ct.target], Program], compress: Callable[[MLModel], MLModel]
) -> None:
    model = compress(converted(build))
    mine = names(palettize_weights(model, config(nbits=2), True))
    assert mine == names(cto.palettize_weights(model, config(nbits=2), joint_compression=True))
    assert {entry[2] for entry in mine.made} & {LUT, SPARSE_LUT}
    left = names(palettize_weights(model, config(nbits=2)))
    assert left == names(model)


def test_names_that_are_taken() -> None:
    """coremltools would rename the ops that have them; here they stay, and the palette gets the next free name."""
    model = converted(taken, compute_precision=ct.precision.FLOAT32)
    result = palettize_weights(model, config())
    others = [op for op in _ops(model) if op.type in ("relu", "add")]
    assert {entry[3:] for entry in names(result).made} == {
        ("w_palettized_2", ("w_palettized_2",)),
        ("v_palettized_1", ("v_palettized_1",)),
    }
    assert {(op, name) for *_, op, _, name in names(result).read} == {
        ("w_palettized", "w_palettized_2"),
        ("v_linear", "v_palettized_1"),
    }
    assert [op for op in _ops(result) if op.type in ("relu", "add")] == others


@pytest.mark.parametrize("ops", [True, False])
@pytest.mark.parametrize("outputs", [True, False])
def test_equal_names_in_sibling_blocks(ops: bool, outputs: bool, tmp_path: Path) -> None:
    """An op and its output may be called differently: the palette is called after the op."""
    model = renamed(converted(branches), tmp_path, "inner1_to_fp16", "inner0_to_fp16", ops=ops, outputs=outputs)
    mine = names(palettize_weights(model, config()))
    assert mine == names(cto.palettize_weights(model, config()))
    assert len(mine.made) == len({entry[3] for entry in mine.made}) == 4


def test_parts_of_a_scaled_palette_with_quantized_entries() -> None:
    options = {"enable_per_channel_scale": True, "lut_dtype": "int8"}
    mine = names(palettize_weights(converted(tied), config(**options)))
    table, looked_up, scaled = (f"table_to_fp16_palettized{s}" for s in ("_lut_0_quantized", "", "_pcs"))
    assert {entry[2:] for entry in mine.made} == {
        ("constexpr_blockwise_shift_scale", table, (table,)),
        (LUT, looked_up, (looked_up,)),
        ("constexpr_blockwise_shift_scale", scaled, (scaled,)),
    }
    assert {entry[-1] for entry in mine.read} == {scaled}


# Kinds of models


def test_ios15_moves_to_ios16_as_with_coremltools() -> None:
    model = converted(layers, IOS15)
    mine, other = palettize_weights(model, config()), cto.palettize_weights(model, config())
    assert model.get_spec().specificationVersion == 6
    assert mine.get_spec().specificationVersion == other.get_spec().specificationVersion == 7
    assert names(mine) == names(other)
    function = mine.get_spec().mlProgram.functions["main"]
    assert (function.opset, list(function.block_specializations)) == ("CoreML6", ["CoreML6"])


def two_functions(folder: Path) -> Path:
    """One weight that two functions share, under one name, and another of each that share a name only."""
    desc = ct.utils.MultiFunctionDescriptor()
    for name, factor in (("prefill", 1), ("decode", 2)):

        def build(target: ct.target, factor: int = factor) -> Program:
            @mb.program(input_specs=[mb.TensorSpec((2, 64))], opset_version=target)
            def program(x):
                draw = np.random.default_rng(3)
                base, own = (draw.standard_normal((64, 64)).astype(np.float32) for _ in range(2))
                y = mb.linear(x=x, weight=mb.const(val=base, name="base"), name="base_linear")
                return mb.linear(x=y, weight=mb.const(val=own * factor, name="own"), name="own_linear")

            return program

        converted(build).save(str(folder / f"{name}.mlpackage"))
        desc.add_function(str(folder / f"{name}.mlpackage"), "main", name)
    desc.default_function_name = "prefill"
    ct.utils.save_multifunction(desc, str(folder / "both.mlpackage"))
    return folder / "both.mlpackage"


def test_functions_keep_their_names_and_share_their_weights(tmp_path: Path) -> None:
    path = two_functions(tmp_path)
    model = loaded(path, function_name="decode")
    result = palettize_weights(model, config())
    assert result.function_name == "decode"
    assert result._model_input_names_set == model._model_input_names_set
    made = {("", f, "", f"{w}_to_fp16_palettized"): LUT for f in ("prefill", "decode") for w in ("base", "own")}
    assert compressed(result) == made
    indices = {}
    for (_, function, _, name), (op, _) in constants(Path(result.package_path)).items():
        if op.type == LUT:
            indices[function, name] = op.inputs["indices"].arguments[0].value.blobFileValue.offset
    assert len(set(indices.values())) == 3
    assert indices["prefill", "base_to_fp16_palettized"] == indices["decode", "base_to_fp16_palettized"]
    with pytest.raises(ValueError, match="not supported for a multifunction model"):
        cto.palettize_weights(model, config())
    assert set(result._mil_program.functions) == {"prefill", "decode"}
    only = palettize_weights(model, config_by_name("decode/base_to_fp16"))
    assert set(compressed(only)) == {("", "decode", "", "base_to_fp16_palettized")}


def config_by_name(name: str) -> cto.OptimizationConfig:
    return cto.OptimizationConfig(op_name_configs={name: config().global_config})


def test_states_stay() -> None:
    def build(target: ct.target) -> Program:
        specs = [mb.TensorSpec((2, 64)), mb.StateTensorSpec((2, 64), dtype=ct.converters.mil.mil.types.fp16)]

        @mb.program(input_specs=specs, opset_version=target)
        def program(x, memory):
            before = mb.read_state(input=memory, name="before")
            weight = mb.const(val=np.random.default_rng(0).standard_normal((64, 64)).astype(np.float16), name="w")
            y = mb.linear(x=mb.cast(x=x, dtype="fp16"), weight=weight, name="y")
            y = mb.add(x=y, y=before)
            return mb.cast(x=mb.coreml_update_state(state=memory, value=y, name="after"), dtype="fp32", name="out")

        return program

    model = converted(build)
    result = palettize_weights(model, config())
    assert list(compressed(result).values()) == [LUT]
    assert result.get_spec().description == model.get_spec().description
    assert result.get_spec().description.state[0].name == "memory"
    assert names(result) == names(cto.palettize_weights(model, config()))


def test_flexible_shapes_and_descriptions_stay(fixtures: Path) -> None:
    for name in ("flexible_ios16", "stateful_ios18", "image_classifier_ios15", "extras_ios16"):
        model = loaded(fixtures / f"{name}.mlpackage")
        result = palettize_weights(model, config())
        assert compressed(result)
        assert result.get_spec().description == model.get_spec().description, name
        assert result._mil_program is not None


def test_class_labels_stay() -> None:
    def build(target: ct.target) -> Program:
        @mb.program(input_specs=[mb.TensorSpec((1, 64))], opset_version=target)
        def program(x: Var) -> Var:
            weight = mb.const(val=np.random.default_rng(0).standard_normal((48, 64)).astype(np.float32), name="w")
            return mb.softmax(x=mb.linear(x=x, weight=weight, name="y"), axis=-1, name="probability")

        return program

    labels = [f"label {i}" for i in range(48)]
    model = converted(build, classifier_config=ct.ClassifierConfig(labels))
    mine, other = palettize_weights(model, config()), cto.palettize_weights(model, config())
    assert mine.get_spec().description == model.get_spec().description
    assert mine.get_spec().description.predictedFeatureName == "classLabel"
    assert names(mine) == names(other)
    (classify,) = (op for op in _ops(mine) if op.type == "classify")
    assert len(classify.inputs["classes"].arguments) == 1
    assert [op for op in _ops(model) if op.type == "classify"] == [classify]


def _ops(model: MLModel) -> list:
    (block,) = model.get_spec().mlProgram.functions["main"].block_specializations.values()
    return list(block.operations)


@pytest.mark.parametrize("name", ["pipeline_ios17", "detector_ios16"])
def test_pipelines(name: str, fixtures: Path, tmp_path: Path) -> None:
    model = loaded(fixtures / f"{name}.mlpackage")
    result = palettize_weights(model, config())
    made = compressed(result)
    assert made
    assert all(key[3].endswith("_palettized") for key in made)
    assert not compressed(decompress_weights(result))
    result.save(str(tmp_path / "saved.mlpackage"))
    assert differences(tmp_path / "saved.mlpackage", Path(result.package_path)) == []


def test_a_model_that_coremltools_cannot_load(fixtures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = loaded(fixtures / "future_op_ios17.mlpackage")
    with pytest.raises(ValueError, match="not registered"):
        cto.palettize_weights(model, config())
    result = palettize_weights(model, config())
    assert len(compressed(result)) == 2
    result.save(str(tmp_path / "saved.mlpackage"))
    assert differences(tmp_path / "saved.mlpackage", Path(result.package_path)) == []
    assert result._mil_program is None
    assert "PyMIL cannot load the model" in caplog.text


def test_decompression_gives_the_values_coremltools_decodes(fixtures: Path) -> None:
    for name in ("palettized_ios16", "palettized_grouped_ios18", "quantized_sparse_ios16"):
        model = loaded(fixtures / f"{name}.mlpackage")
        mine, other = decoded(decompress_weights(model)), decoded(cto.decompress_weights(model))
        assert all(mine[key].tobytes() == other[key].tobytes() for key in compressed(model))
        assert not compressed(decompress_weights(model))


def test_decompression_keeps_names() -> None:
    small = palettize_weights(converted(branches), config())
    dense = decompress_weights(small)
    outer = decoded(small)
    assert names(dense).made == set()
    assert all(np.array_equal(decoded(dense)[key], outer[key]) for key in compressed(small))
    assert names(palettize_weights(dense, config())).made == {
        (function, place, kind, f"{name}_palettized", (f"{name}_palettized",))
        for function, place, kind, name, _ in names(small).made
    }


# What is no ML Program


def neural_network() -> MLModel:
    builder = NeuralNetworkBuilder([("x", datatypes.Array(3))], [("y", None)], disable_rank5_shape_mapping=True)
    builder.add_activation("relu", "RELU", "x", "y")
    return MLModel(builder.spec)


def test_neural_networks_get_the_sentence_of_coremltools() -> None:
    model = neural_network()
    with pytest.raises(TypeError) as theirs:
        cto.palettize_weights(model, config())
    for act in (lambda: palettize_weights(model, config()), lambda: decompress_weights(model)):
        with pytest.raises(ModelTypeError) as mine:
            act()
        assert isinstance(mine.value, TypeError)
        # A space is missing in theirs.
        assert "".join(str(mine.value).split()) == "".join(str(theirs.value).split())


def test_pipelines_of_neural_networks_and_other_models_are_refused() -> None:
    spec = ct.proto.Model_pb2.Model(specificationVersion=4)
    spec.pipeline.models.add().CopyFrom(neural_network().get_spec())
    spec.description.CopyFrom(neural_network().get_spec().description)
    with pytest.raises(ModelTypeError, match="This model has type pipeline"):
        palettize_weights(MLModel(spec), config())
    spec = ct.proto.Model_pb2.Model(specificationVersion=1)
    spec.identity.SetInParent()
    with pytest.raises(ModelTypeError, match="not applicable for model type identity"):
        palettize_weights(MLModel(spec), config())


@pytest.mark.parametrize("wrong", [None, "model.mlpackage", 5, Path("model.mlpackage")])
def test_what_is_no_model_at_all(wrong: object) -> None:
    with pytest.raises(TypeError, match=f"must be a coremltools MLModel, got {type(wrong).__name__}"):
        palettize_weights(wrong, config())
