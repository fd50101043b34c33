"""Fisher information of a package, in a file and through the doors: sensitive k-means."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

pytest.importorskip("torch")

from evaluator import program_of, saved

from mil_palettize import (
    ConfigError,
    EvaluationError,
    OpPalettizerConfig,
    OptimizationConfig,
    PackageError,
    PlanError,
    fisher_importance,
    palettize_package,
)
from mil_palettize.cli.main import main
from mil_palettize.doors.sensitivity import read_importance, read_labels, write_importance
from mil_palettize.torch import MILModule

NAME = "conv_fp32_ios18.mlpackage"


def test_every_weight_has_positive_importance_of_its_shape(fixtures: Path) -> None:
    found = fisher_importance(fixtures / NAME, 4)
    weights = MILModule.from_package(fixtures / NAME).weights
    assert {name.rpartition("/")[2]: array.shape for name, array in found.items()} == {
        name: tuple(weight.shape) for name, weight in weights.items()
    }
    for array in found.values():
        assert array.dtype == np.float32
        assert (array >= 1.0).all()  # the damping
        assert array.mean() == pytest.approx(2.0, rel=1e-4) or (array == 1.0).all()


def test_it_is_the_same_through_a_file_and_the_command_line(fixtures: Path, tmp_path: Path) -> None:
    found = fisher_importance(fixtures / NAME, 4)
    write_importance(tmp_path / "one.npz", found, fixtures / NAME)
    read = read_importance(tmp_path / "one.npz", fixtures / NAME)
    assert read.keys() == found.keys()
    assert all(np.array_equal(read[name], found[name]) for name in found)
    command = ["sensitivity", str(fixtures / NAME), "--calibrate", "4", "--out", str(tmp_path / "two.npz")]
    assert main(command) == 0
    assert (tmp_path / "two.npz").read_bytes() == (tmp_path / "one.npz").read_bytes()


def test_palettes_are_weighted_optima(fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Less weighted error than the plain palette has, of which a plain one has less unweighted error."""
    found = fisher_importance(fixtures / NAME, 4)
    write_importance(tmp_path / "s.npz", found, fixtures / NAME)
    config = OptimizationConfig(global_config=OpPalettizerConfig(nbits=2, weight_threshold=64))
    plain = palettize_package(fixtures / NAME, tmp_path / "plain.mlpackage", config)
    out = tmp_path / "out.mlpackage"
    options = ["--nbits", "2", "--weight-threshold", "64", "--json", "--sensitivity", str(tmp_path / "s.npz")]
    assert main(["palettize", str(fixtures / NAME), str(out), *options]) == 0
    report = {w["name"]: w for w in json.loads(capsys.readouterr().out)["weights"] if w["status"] == "palettized"}
    before, after = (MILModule.from_package(tmp_path / f"{n}.mlpackage").weights for n in ("plain", "out"))
    source = MILModule.from_package(fixtures / NAME).weights
    for weight in plain.palettized:
        array = found[f"main/{weight.name}"].astype(np.float64)
        errors = []
        for weights in (before, after):
            difference = (source[weight.name] - weights[weight.name]).detach().numpy().astype(np.float64)
            errors.append(float((array * difference**2).sum()))
        assert errors[1] <= errors[0] * (1 + 1e-4)
        assert report[weight.name]["weighted_error"] == pytest.approx(errors[1], rel=1e-3)
        assert report[weight.name]["squared_error"] >= weight.squared_error * (1 - 1e-6)


@pytest.mark.parametrize(
    ("option", "code"),
    [
        (["--labels", "none.npy"], 3),
        (["--loss", "none.py:f"], 3),
        (["--loss", "f"], 2),
        (["--damping", "0"], 2),
        (["--calibrate", "none.npz"], 3),
    ],
)
def test_what_cannot_be_is_one_line(
    fixtures: Path, tmp_path: Path, option: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "s.npz"
    assert main(["sensitivity", str(fixtures / NAME), "--out", str(out), *option]) == code
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not out.exists()


def test_labels_of_another_number(fixtures: Path) -> None:
    with pytest.raises(EvaluationError, match="1 labels for 4 samples"):
        fisher_importance(fixtures / NAME, 4, labels=[0])


def test_a_loss_of_ones_own_in_a_file(fixtures: Path, tmp_path: Path) -> None:
    """The same as the function itself, and what it does wrong is one line."""
    file = tmp_path / "losses.py"
    file.write_text(
        "def squares(outputs, number):\n    return sum((o ** 2).sum() for o in outputs.values())\n"
        "def wrong(outputs, number):\n    return outputs['none']\n"
    )
    out = tmp_path / "s.npz"
    command = ["sensitivity", str(fixtures / NAME), "--calibrate", "4", "--out", str(out)]
    assert main([*command, "--loss", f"{file}:squares"]) == 0
    wanted = fisher_importance(
        fixtures / NAME, 4, loss=lambda outputs, number: sum((o**2).sum() for o in outputs.values())
    )
    found = read_importance(out, fixtures / NAME)
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    with pytest.raises(EvaluationError, match="the loss of sample 0 fails: KeyError: 'none'"):
        fisher_importance(fixtures / NAME, 4, loss=lambda outputs, number: outputs["none"])
    with pytest.raises(ConfigError, match="exclude each other"):
        fisher_importance(fixtures / NAME, 4, labels=[0] * 4, loss=lambda outputs, number: None)


def test_weights_that_are_no_longer_the_same_are_named(
    fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other values, and another shape; arrays without hashes are taken as they are."""
    found = fisher_importance(fixtures / NAME, 4)
    write_importance(tmp_path / "s.npz", found, fixtures / NAME)
    config = OptimizationConfig(global_config=OpPalettizerConfig(nbits=2, weight_threshold=64))
    report = palettize_package(fixtures / NAME, tmp_path / "other.mlpackage", config)
    capsys.readouterr()
    out = tmp_path / "out.mlpackage"
    command = ["palettize", str(tmp_path / "other.mlpackage"), str(out), "--nbits", "2", "--redo"]
    assert main([*command, "--sensitivity", str(tmp_path / "s.npz")]) == 4
    error = capsys.readouterr().err
    assert any(f"weight 'main/{w.name}' had other values" in error for w in report.palettized)
    assert len(error.strip().splitlines()) == 1
    assert not out.exists()
    np.savez(tmp_path / "own.npz", **found)
    assert read_importance(tmp_path / "own.npz", tmp_path / "other.mlpackage").keys() == found.keys()


def test_a_weight_of_another_shape_is_named(fixtures: Path, tmp_path: Path) -> None:
    packages = []
    for number, rows in enumerate((4, 6)):
        (tmp_path / str(number)).mkdir()
        weight = np.random.default_rng(0).normal(size=(rows, 8)).astype(np.float32)
        program = program_of(lambda x, w=weight: mb.linear(x=x, weight=w, name="y"), [((1, 8), np.float32)])
        packages.append(saved(program, tmp_path / str(number)))
    found = fisher_importance(packages[0], 4)
    write_importance(tmp_path / "s.npz", found, packages[0])
    with pytest.raises(PlanError, match=r"had shape \[4, 8\], not \[6, 8\], when .*s\.npz was written"):
        read_importance(tmp_path / "s.npz", packages[1])


def test_labels_in_either_kind_of_file(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", np.array([1, 2]))
    np.savez(tmp_path / "y.npz", labels=np.array([1, 2]))
    assert read_labels(tmp_path / "y.npy") == read_labels(tmp_path / "y.npz") == [1, 2]
    np.savez(tmp_path / "y.npz", labels=np.array([1, 2]), others=np.array([1]))
    with pytest.raises(PackageError, match="is no list of whole numbers"):
        read_labels(tmp_path / "y.npz")


def test_a_classifier_answers_with_its_probabilities(fixtures: Path) -> None:
    found = fisher_importance(fixtures / "image_classifier_ios15.mlpackage", 4)
    assert any(array.max() > array.min() for array in found.values())


def test_a_weight_that_functions_share_counts_for_all_of_them(fixtures: Path) -> None:
    path = fixtures / "multifunction_ios18.mlpackage"
    whole = fisher_importance(path, 3)
    parts = {name: fisher_importance(path, 3, function=name) for name in ("prefill", "decode")}
    assert whole.keys() == parts["prefill"].keys() | parts["decode"].keys()
    assert np.array_equal(whole["prefill/base_weight"], whole["decode/base_weight"])
    assert not np.array_equal(whole["prefill/base_weight"], parts["prefill"]["prefill/base_weight"])
    assert np.array_equal(whole["decode/adapter_weight"], parts["decode"]["decode/adapter_weight"])


def test_a_loss_that_depends_on_no_weight(fixtures: Path) -> None:
    with pytest.raises(EvaluationError, match="depends on no weight in any sample"):
        fisher_importance(fixtures / NAME, 4, loss=lambda outputs, number: next(iter(outputs.values())).detach().sum())
