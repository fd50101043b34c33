"""Models of several functions, calibrated on samples that some of the functions take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from mil_palettize import (
    Budget,
    Calibration,
    ConfigError,
    EvaluationError,
    OpPalettizerConfig,
    OptimizationConfig,
    compare,
    fisher_importance,
    palettize_package,
    plan_mixed_bits,
)
from mil_palettize.reports.report import Report
from mil_palettize.torch.predictions import run_package

CONFIG = OptimizationConfig(OpPalettizerConfig(nbits=2, weight_threshold=64))
SHAPES = {"decode": (1, 1, 48), "prefill": (1, 8, 48)}  # of the input x, the only one of both


@pytest.fixture
def source(fixtures: Path) -> Path:
    return fixtures / "multifunction_ios18.mlpackage"


def samples_of(function: str, count: int = 40) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(3)
    return [{"x": rng.normal(size=SHAPES[function]).astype(np.float32)} for _ in range(count)]


def saved_of(function: str, path: Path) -> Path:
    np.savez(path, x=np.stack([sample["x"] for sample in samples_of(function)]))
    return path


def sampled(report: Report) -> dict[str, int]:
    """On how many samples palettes were made."""
    return {f"{w.function}/{w.name}": w.calibration.samples for w in report.palettized if w.calibration is not None}


@pytest.mark.parametrize(("function", "other"), [("decode", "prefill"), ("prefill", "decode")])
def test_samples_are_for_the_function_whose_shapes_they_have(
    source: Path, tmp_path: Path, function: str, other: str
) -> None:
    given = palettize_package(source, tmp_path / "a.mlpackage", CONFIG, calibration=Calibration(samples_of(function)))
    assert sampled(given) == {  # the other function's own weight is made of no sample
        f"{function}/adapter_weight": 32,
        f"{other}/adapter_weight": 0,
        "decode/base_weight": 32,
        "prefill/base_weight": 32,
    }
    (note,) = [note for note in given.notes if "by its weights alone" in note]
    assert note.startswith(
        f"function {other!r}: by its weights alone, as it does not take the samples (input 'x' has shape"
    )
    read = Calibration(saved_of(function, tmp_path / "x.npz"))
    palettize_package(source, tmp_path / "b.mlpackage", CONFIG, calibration=read)
    written = [tmp_path / f"{name}.mlpackage/Data/com.apple.CoreML/weights/weight.bin" for name in "ab"]
    assert written[0].read_bytes() == written[1].read_bytes()


def test_samples_that_no_function_takes(source: Path, tmp_path: Path) -> None:
    wrong = [{"x": np.zeros((1, 3, 48), np.float32)}] * 8
    message = r"no function .*: function 'decode': .* takes \[1, 1, 48\]; function 'prefill': .* takes \[1, 8, 48\]$"
    with pytest.raises(EvaluationError, match=message):
        palettize_package(source, tmp_path / "o.mlpackage", CONFIG, calibration=Calibration(wrong))
    with pytest.raises(EvaluationError, match=message):
        fisher_importance(source, wrong)
    with pytest.raises(EvaluationError, match=r"^the model has no input 'y'; .*$"):
        fisher_importance(source, [{"y": wrong[0]["x"]}], function="decode")
    assert not list(tmp_path.iterdir())


def test_a_later_sample_of_another_shape(source: Path, tmp_path: Path) -> None:
    mixed = samples_of("decode") + samples_of("prefill", 1)
    with pytest.raises(
        EvaluationError, match=r"^function 'decode' takes the first sample, but not call 40: input 'x' has"
    ):
        palettize_package(source, tmp_path / "o.mlpackage", CONFIG, calibration=Calibration(mixed))


def test_sensitivity_is_of_the_functions_that_take_the_samples(source: Path) -> None:
    found = fisher_importance(source, samples_of("decode", 3))
    alone = fisher_importance(source, samples_of("decode", 3), function="decode")
    assert found.keys() == alone.keys()
    assert all(np.array_equal(found[name], alone[name]) for name in found)


def test_a_folder_of_files_for_functions(source: Path, tmp_path: Path) -> None:
    """Which may lack some, but not hold what a function does not take."""
    folder = tmp_path / "samples"
    folder.mkdir()
    saved_of("decode", folder / "decode.npz")
    some = palettize_package(source, tmp_path / "a.mlpackage", CONFIG, calibration=Calibration(folder))
    assert sampled(some)["prefill/adapter_weight"] == 0
    assert any("has decode.npz, but no prefill.npz" in note for note in some.notes)
    assert fisher_importance(source, folder).keys() == {"decode/base_weight", "decode/adapter_weight"}
    saved_of("prefill", folder / "prefill.npz")
    both = palettize_package(source, tmp_path / "b.mlpackage", CONFIG, calibration=Calibration(folder))
    assert set(sampled(both).values()) == {32}
    saved_of("decode", folder / "prefill.npz")
    with pytest.raises(EvaluationError, match=r"^function 'prefill': input 'x' has shape \[1, 1, 48\]"):
        palettize_package(source, tmp_path / "c.mlpackage", CONFIG, calibration=Calibration(folder))
    with pytest.raises(EvaluationError, match=r"^function 'prefill': input 'x' has shape \[1, 1, 48\]"):
        fisher_importance(source, folder)


def test_a_folder_whose_files_are_called_otherwise(source: Path, fixtures: Path, tmp_path: Path) -> None:
    saved_of("decode", tmp_path / "decod.npz")
    message = r"decod\.npz, and no pictures; call files as the model's functions: decode\.npz, prefill\.npz"
    with pytest.raises(EvaluationError, match=message):
        run_package(source, tmp_path)
    with pytest.raises(EvaluationError, match=message):
        compare(source, source, tmp_path, function="all")
    with pytest.raises(EvaluationError, match=r"decod\.npz, and no pictures; give one file$"):
        run_package(fixtures / "pipeline_ios17.mlpackage", tmp_path)


def test_run_takes_the_file_of_the_function(source: Path, tmp_path: Path) -> None:
    for name in SHAPES:
        saved_of(name, tmp_path / f"{name}.npz")
        assert run_package(source, tmp_path, function=name).samples == 40


def test_inputs_of_another_function_than_the_default_one(source: Path, tmp_path: Path) -> None:
    path = saved_of("decode", tmp_path / "x.npz")
    message = r"^function 'prefill': .*input 'x' has .* \[1, 8, 48\]; name the function .* \(--function decode\)$"
    with pytest.raises(EvaluationError, match=message):
        run_package(source, path)
    with pytest.raises(EvaluationError, match=message):
        compare(source, source, path)
    with pytest.raises(EvaluationError, match=r"^input 'x' has shape"):
        run_package(source, path, function="prefill")


def test_what_is_said_of_samples_is_said_once(source: Path, tmp_path: Path) -> None:
    """Though the plan reads them too."""
    budget, few = Budget(bits_per_weight=7), Calibration(samples_of("decode", 8))
    recipe = plan_mixed_bits(source, budget, calibration=few)
    report = palettize_package(source, tmp_path / "o.mlpackage", recipe, calibration=few)
    assert any("calibrated on 8 samples only" in note for note in report.notes)
    assert len(set(report.notes)) == len(report.notes)


def test_samples_by_function(source: Path, tmp_path: Path) -> None:
    """A mapping says what a folder of files says, and may lack functions, but not have others."""
    folder = tmp_path / "samples"
    folder.mkdir()
    for name in SHAPES:
        saved_of(name, folder / f"{name}.npz")
    given = {name: samples_of(name) for name in SHAPES}
    for name, data in (("a", folder), ("b", given)):
        palettize_package(source, tmp_path / f"{name}.mlpackage", CONFIG, calibration=Calibration(data))
    written = [tmp_path / f"{name}.mlpackage/Data/com.apple.CoreML/weights/weight.bin" for name in "ab"]
    assert written[0].read_bytes() == written[1].read_bytes()
    some = palettize_package(
        source, tmp_path / "c.mlpackage", CONFIG, calibration=Calibration({"decode": given["decode"]})
    )
    assert sampled(some)["prefill/adapter_weight"] == 0
    assert any("samples of 'decode', but none of function 'prefill'" in note for note in some.notes)
    assert fisher_importance(source, {"decode": given["decode"][:2]}).keys() == {
        "decode/base_weight",
        "decode/adapter_weight",
    }
    misspelt = Calibration({"decode": given["decode"], "prefil": given["prefill"]})
    message = r"there are samples of 'prefil', which is no function of the model; it has 'decode', 'prefill'$"
    with pytest.raises(EvaluationError, match=message):
        palettize_package(source, tmp_path / "d.mlpackage", CONFIG, calibration=misspelt)
    swapped = {"decode": given["prefill"], "prefill": given["prefill"]}
    with pytest.raises(EvaluationError, match=r"^function 'decode': input 'x' has shape \[1, 8, 48\]"):
        palettize_package(source, tmp_path / "d.mlpackage", CONFIG, calibration=Calibration(swapped))
    with pytest.raises(ConfigError, match="sample_data of 'prefill' is empty"):
        Calibration({"decode": given["decode"], "prefill": []})


def test_the_function_of_a_comparison_gets_its_samples(source: Path) -> None:
    given = {name: samples_of(name, 2) for name in SHAPES}
    assert compare(source, source, given, function="decode").samples == 2
    assert compare(source, source, given).samples == 2
    with pytest.raises(EvaluationError, match=r"^there are samples of 'prefill', but none of function 'decode'$"):
        compare(source, source, {"prefill": given["prefill"]}, function="decode")
    with pytest.raises(EvaluationError, match=r"^function 'decode': there are samples of 'prefill', but none of"):
        compare(source, source, {"prefill": given["prefill"]}, function="all")
