"""``palettize_weights(mlmodel, …)`` and ``decompress_weights``: signature, what a model keeps, files, log."""

from __future__ import annotations

import inspect
import logging
import os
import subprocess
import sys
from pathlib import Path

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import pytest
from coremltools.models import model as model_module
from door_networks import IOS16, MLModel, config, converted, layers, names, pruned, tied
from handmade import contents
from light_imports import LIGHT
from packages import constants, differences

import mil_palettize
from mil_palettize import OptimizationConfig, PackageError, PlanError, decompress_weights, palettize_weights
from mil_palettize.doors import mlmodel

GROUPS = {"granularity": "per_grouped_channel", "group_size": 8}


def values(model: MLModel) -> dict[tuple[str, ...], np.ndarray]:
    found = {key: decode() for key, (_, decode) in constants(Path(model.package_path)).items()}
    return {key: array for key, array in found.items() if array.dtype != object}


def palettes(model: MLModel) -> int:
    return sum(entry[2].startswith("constexpr_lut") for entry in names(model).made)


@pytest.mark.parametrize("name", ["palettize_weights", "decompress_weights"])
def test_signature_of_coremltools(name: str) -> None:
    from coremltools.optimize.coreml import _post_training_quantization as theirs

    # Their decorator hides the signature; what it calls has it.
    (wrapped,) = (c.cell_contents for c in getattr(theirs, name).__closure__)
    mine = inspect.signature(getattr(mil_palettize, name)).parameters
    other = inspect.signature(wrapped).parameters
    shared = [(p.name, p.kind, p.default) for p in mine.values() if p.kind is not p.KEYWORD_ONLY]
    assert shared == [(p.name, p.kind, p.default) for p in other.values()]
    own = {p.name: p.default for p in mine.values() if p.kind is p.KEYWORD_ONLY}
    ours = {"select": "weights", "strict": False, "importance": None, "calibration": None, "return_report": False}
    assert own == (ours if name == "palettize_weights" else {})


# What a model keeps


def test_after_conversion_saved_and_loaded_give_the_same(tmp_path: Path) -> None:
    fresh = converted(tied)
    fresh.save(str(tmp_path / "saved.mlpackage"))
    spec = fresh.get_spec()
    models = [
        fresh,
        MLModel(str(tmp_path / "saved.mlpackage"), skip_model_load=True),
        MLModel(spec, weights_dir=fresh.weights_dir, skip_model_load=True),
        mil_palettize.palettize_weights(mlmodel=fresh, config=config(weight_threshold=10**6), joint_compression=False),
    ]
    first, *others = [palettize_weights(model, config(**GROUPS)) for model in models]
    assert palettes(first) == 1
    for other in others:
        differ = differences(Path(first.package_path), Path(other.package_path))
        assert differ in ([], ["manifest: changed"])  # the identifiers in it are made anew with each package


@pytest.fixture
def hints(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Optimization hints, which coremltools takes on macOS only."""
    monkeypatch.setattr(model_module, "_is_macos", lambda: True)
    monkeypatch.setattr(model_module, "_macos_version", lambda: (15, 0))
    return {"allowLowPrecisionAccumulationOnGPU": True, "reshapeFrequency": ct.ReshapeFrequency.Infrequent}


def test_settings_are_kept(hints: dict[str, object]) -> None:
    path = converted(layers).package_path
    model = MLModel(
        path,
        skip_model_load=True,
        compute_units=ct.ComputeUnit.CPU_ONLY,
        function_name="main",
        optimization_hints=hints,
    )
    for result in (palettize_weights(model, config()), decompress_weights(model)):
        assert isinstance(result, MLModel)
        assert result.compute_unit is ct.ComputeUnit.CPU_ONLY
        assert (result.function_name, result.optimization_hints) == ("main", hints)
        assert result.optimization_hints is not model.optimization_hints
        assert result.is_package
        assert result.is_temp_package


class Proxy:
    """In the place of the one that only macOS has."""

    made: list[tuple[object, ...]]

    def __init__(self, *arguments: object) -> None:
        type(self).made.append(arguments)

    @staticmethod
    def maximum_supported_specification_version() -> int:
        return 99


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> type[Proxy]:
    stub = type("Stub", (Proxy,), {"made": []})
    monkeypatch.setattr(model_module, "_MLModelProxy", stub)
    return stub


def test_it_is_loaded_exactly_when_the_given_model_is(proxy: type[Proxy], hints: dict[str, object]) -> None:
    path = converted(layers).package_path
    skipped = MLModel(path, skip_model_load=True)
    assert palettize_weights(skipped, config()).__proxy__ is None
    assert decompress_weights(skipped).__proxy__ is None
    assert not proxy.made
    loaded = MLModel(path, compute_units=ct.ComputeUnit.CPU_AND_GPU, optimization_hints=hints)
    result = palettize_weights(loaded, config())
    assert isinstance(result.__proxy__, proxy)
    *_, arguments = proxy.made
    assert arguments == (
        result.package_path,
        "CPU_AND_GPU",
        "",
        {"allowLowPrecisionAccumulationOnGPU": "True", "reshapeFrequency": "Infrequent"},
        None,
    )
    assert isinstance(decompress_weights(result).__proxy__, proxy)


def test_metadata_that_was_changed_in_memory(tmp_path: Path) -> None:
    model = converted(layers)
    model.short_description, model.author, model.license, model.version = "what", "who", "how", "1.5"
    model.user_defined_metadata["key"] = "value"
    (given,) = model.input_description
    model.input_description[given] = "goes in"
    result = palettize_weights(model, config())
    assert result.get_spec().description == model.get_spec().description
    result.save(str(tmp_path / "saved.mlpackage"))
    again = MLModel(str(tmp_path / "saved.mlpackage"), skip_model_load=True)
    assert (again.short_description, again.author, again.license, again.version) == ("what", "who", "how", "1.5")
    assert again.user_defined_metadata["key"] == "value"
    assert again.input_description[given] == "goes in"


# Files


def test_the_given_model_stays_as_it_is() -> None:
    model = converted(layers)
    model.short_description = "not saved"
    program = model._mil_program
    before, spec = contents(Path(model.package_path)), model.get_spec().SerializeToString(deterministic=True)
    result = palettize_weights(model, config())
    decompress_weights(result)
    assert contents(Path(model.package_path)) == before
    assert model.get_spec().SerializeToString(deterministic=True) == spec
    assert model._mil_program is program
    result.short_description = "other"
    assert model.short_description == "not saved"


PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from door_networks import MLModel, config
from mil_palettize import decompress_weights, palettize_weights
model = palettize_weights(MLModel({path!r}, skip_model_load=True), config())
decompress_weights(model)
print(model.package_path)
"""


def test_temporary_packages_go_with_the_process(tmp_path: Path) -> None:
    converted(layers).save(str(tmp_path / "in.mlpackage"))
    (tmp_path / "temporary").mkdir()
    root = Path(mil_palettize.__file__).resolve().parent.parent
    environment = os.environ | {"TMPDIR": str(tmp_path / "temporary"), "PYTHONPATH": str(root)}
    text = LIGHT + PROGRAM.format(tests=str(Path(__file__).parents[1] / "helpers"), path=str(tmp_path / "in.mlpackage"))
    done = subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(tmp_path / "temporary"))
    assert [p for p in (tmp_path / "temporary").iterdir() if p.suffix == ".mlpackage"] == []


def test_nothing_is_left_after_an_error(temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "in.mlpackage"
    converted(layers, IOS16).save(str(path))
    before = list(temporary.iterdir())
    model = MLModel(str(path), skip_model_load=True)

    def wrong(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        raise KeyboardInterrupt

    with pytest.raises(PlanError):
        palettize_weights(model, config(**GROUPS))
    with pytest.raises(KeyboardInterrupt):
        palettize_weights(model, config(mode="custom", nbits=None, lut_function=wrong))
    with monkeypatch.context() as patch:
        patch.setattr(mlmodel, "_TemporaryModel", wrong)
        with pytest.raises(TypeError):
            palettize_weights(model, config())
    weights = Path(model.weights_dir) / "weight.bin"
    weights.write_bytes(weights.read_bytes()[:256])
    with pytest.raises(PackageError, match=r"weight\.bin"):
        palettize_weights(model, config())
    assert list(temporary.iterdir()) == before


def test_saved_and_used_again(tmp_path: Path) -> None:
    path = tmp_path / "saved.mlpackage"
    result = palettize_weights(converted(layers), config())
    result.save(str(path))
    result.save(str(path))
    assert differences(path, Path(result.package_path)) == []
    assert result._program is None  # saving does not make the program
    saved = MLModel(str(path), skip_model_load=True)
    dense = decompress_weights(saved)
    assert palettes(dense) == 0
    assert {k: v.tobytes() for k, v in values(dense).items()} == {k: v.tobytes() for k, v in values(saved).items()}
    dense.save(str(tmp_path / "dense.mlpackage"))
    again = palettize_weights(dense, config())
    assert palettes(again) == palettes(result) == 2
    before, after = values(result), values(again)
    assert all(np.array_equal(before[k], after[(*k[:3], f"{k[3]}_palettized")]) for k in before if "palettized" in k[3])
    assert names(palettize_weights(saved, config())) == names(saved)


def test_coremltools_goes_on_with_the_result() -> None:
    small = palettize_weights(
        converted(layers), OptimizationConfig(op_name_configs={"first_cast_fp16": config().global_config})
    )
    assert palettes(small) == 1
    found = cto.get_weights_metadata(small, weight_threshold=1000)
    assert set(found) == {"first_weight_to_fp16_palettized_indices_0", "second_weight_to_fp16"}
    rest = cto.OptimizationConfig(cto.OpMagnitudePrunerConfig(target_sparsity=0.5, weight_threshold=100))
    assert {entry[2] for entry in names(cto.prune_weights(small, rest)).made} == {
        "constexpr_lut_to_dense",
        "constexpr_sparse_to_dense",
    }
    rest = cto.OptimizationConfig(cto.OpLinearQuantizerConfig(weight_threshold=100))
    assert len(names(cto.linear_quantize_weights(small, rest)).made) == 2
    assert not names(cto.decompress_weights(small)).made
    assert {op.op_type for op in small._mil_program.functions["main"].operations} >= {"constexpr_lut_to_dense"}
    assert small._get_mil_internal() is not small._mil_program
    program = small._mil_program
    small._mil_program = None
    assert small._mil_program is not program
    small._mil_program = program
    assert small._mil_program is program


# The log


def test_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="mil_palettize")
    asked = OptimizationConfig(
        config(granularity="per_grouped_channel", group_size=7).global_config, op_name_configs={"no_such": None}
    )
    sparse = pruned(converted(layers))
    palettize_weights(converted(layers), asked)
    said = [(r.levelname, r.getMessage()) for r in caplog.records if r.name == "mil_palettize"]
    warnings = [text for level, text in said if level == "WARNING"]
    assert next(text for level, text in said if level == "INFO").startswith("the model in memory")
    assert {level for level, _ in said} == {"WARNING", "INFO"}
    assert any("second_weight_to_fp16: group_size 7 does not divide the 64 channels" in text for text in warnings)
    assert any("'no_such' matches nothing" in text or "op_name_configs['no_such']" in text for text in warnings)
    caplog.clear()
    palettize_weights(sparse, config())
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING" and r.name == "mil_palettize"]
    assert warning.startswith("first_weight_to_fp16_sparsified, second_weight_to_fp16_sparsified: left alone: ")
    assert warning.endswith("joint_compression palettizes what is left of it")
    caplog.clear()
    palettize_weights(sparse, OptimizationConfig(op_type_configs={"linear": None}))
    assert not [r for r in caplog.records if r.levelname == "WARNING" and r.name == "mil_palettize"]
