"""Inputs that are made up or read from files, and the commands that run and compare on them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from compared_packages import config  # noqa: E402
from evaluator import mb, program_of, saved  # noqa: E402

from mil_palettize import (  # noqa: E402
    EvaluationError,
    PackageError,
    UnsupportedOpError,
    compare,
    palettize_package,
)
from mil_palettize.cli.main import main  # noqa: E402
from mil_palettize.torch import open_model  # noqa: E402
from mil_palettize.torch.made_up_inputs import plausible_inputs, table_sizes  # noqa: E402
from mil_palettize.torch.predictions import run_package  # noqa: E402
from mil_palettize.torch.samples import read_samples  # noqa: E402

RNG = np.random.default_rng(0)


# Made up inputs


def test_token_ids_lie_in_the_table(tmp_path: Path) -> None:
    def build(ids: Any, mask: Any) -> Any:
        rows = mb.gather(x=np.zeros((7, 4), np.float32), indices=mb.expand_dims(x=ids, axes=[0]), axis=0)
        return mb.mul(x=rows, y=mb.cast(x=mb.reduce_sum(x=mask, keep_dims=False), dtype="fp32"))

    path = saved(program_of(build, [((500,), np.int32), ((3,), np.int32)]), tmp_path)
    module = open_model(path)
    assert table_sizes(module) == {"x0": 7}
    (sample,) = plausible_inputs(module, 1)
    assert set(np.unique(sample["x0"])) == set(range(7))
    assert set(np.unique(sample["x1"])) <= {0, 1}


@pytest.mark.parametrize(
    "name", ["flexible_ios16", "image_classifier_ios15", "embedding_linear_ios16", "detector_ios16"]
)
def test_made_up_inputs_run(name: str, fixtures: Path) -> None:
    module = open_model(fixtures / f"{name}.mlpackage")
    for sample in plausible_inputs(module, 2):
        for value in module.predict(sample).values():
            if isinstance(value, np.ndarray):
                assert np.isfinite(value).all()


# Files of samples


def test_samples_of_a_file(original: Path, tmp_path: Path) -> None:
    module, path = open_model(original), tmp_path / "x.npz"
    samples = plausible_inputs(module, 3)
    stacked = {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}
    np.savez(path, **stacked)
    for sample, found in zip(samples, read_samples(path, module), strict=True):
        assert all(np.array_equal(sample[name], found[name]) for name in sample)
    outcome = run_package(original, path)
    assert outcome.samples == 3
    for number, sample in enumerate(samples):
        for name, value in module.predict(sample).items():
            np.testing.assert_allclose(outcome.outputs[name][number], value, rtol=0, atol=1e-6 * np.abs(value).max())
    np.savez(path, **samples[0])
    outcome = run_package(original, path)
    assert outcome.samples == 1
    for name, value in module.predict(samples[0]).items():
        assert np.array_equal(outcome.outputs[name], value)


def test_files_that_are_none(original: Path, tmp_path: Path) -> None:
    module, path = open_model(original), tmp_path / "x.npz"
    (name,) = module.features.inputs
    with pytest.raises(PackageError, match=r"cannot read .*x\.npz"):
        read_samples(path, module)
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(PackageError, match=r"cannot read .*x\.npz"):
        read_samples(path, module)
    np.savez(path, other=np.zeros(3))
    with pytest.raises(EvaluationError, match=f"no input 'other'; it takes .*{name}"):
        read_samples(path, module)
    np.savez(path)
    with pytest.raises(EvaluationError, match=f"lacks the input '{name}'"):
        read_samples(path, module)
    np.savez(path, **{name: np.array([object()])})
    with pytest.raises(PackageError, match="plain arrays"):
        read_samples(path, module)


# Commands


def test_run_command(original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = tmp_path / "x.npz", tmp_path / "y.npz"
    np.savez(x, **plausible_inputs(open_model(original), 1)[0])
    assert main(["run", str(original), "--inputs", str(x), "--out", str(y)]) == 0
    text = capsys.readouterr().out
    outputs = run_package(original, x).outputs
    with np.load(y) as written:
        for name, array in outputs.items():
            assert name in text
            assert np.array_equal(written[name], array)
    assert main(["run", str(original), "--random", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 2


def test_compare_command(original: Path, palettized: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = [str(original), str(palettized)]
    assert main(["compare", *pair, "--random", "2", "--per-op"]) == 0
    text = capsys.readouterr().out
    assert "random inputs from the description, seed 0" in text
    assert "Ops that lost most" in text
    assert main(["compare", *pair, "--random", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["samples"] == 2
    snr = found["snr_db"]
    assert main(["compare", *pair, "--random", "2", "--fail-below", f"{snr - 1:.1f}dB"]) == 0
    assert main(["compare", *pair, "--random", "2", "--fail-below", f"{snr + 1:.1f}"]) == 1
    assert f"{snr:.1f} dB, below" in capsys.readouterr().err
    page = tmp_path / "page.html"
    assert main(["compare", *pair, "--random", "1", "--html", str(page)]) == 0
    assert page.read_text().lower().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--fail-below", "loud"], 2, "'loud' is no number of decibels; give one like 30dB"),
        (["--fail-below", "nandB"], 2, "is no number of decibels"),
        (["--random", "0"], 2, "'0' is no number of samples"),
        (["--random", "2", "--inputs", "x.npz"], 2, "not allowed with argument"),
        (["--inputs", "nowhere.npz"], 3, "cannot read nowhere.npz"),
        (["--function", "nothing"], 2, "has no function 'nothing'"),
        (["--runtime", "coreml"], 2, "Core ML runs on Apple systems only"),
        (["--html", "nowhere/page.html"], 3, "nowhere, which does not exist; make it first"),
    ],
)
def test_wrong_options(
    arguments: list[str], code: int, told: str, original: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "coreml" in arguments and ct.utils._macos_version() > (0, 0):
        pytest.skip("this is a Mac")
    try:
        found = main(["compare", str(original), str(original), *arguments])
    except SystemExit as exit_:
        found = int(exit_.code or 0)
    assert found == code
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_check_of_what_is_redone(fixtures: Path, tmp_path: Path) -> None:
    source, path = fixtures / "palettized_grouped_ios18.mlpackage", tmp_path / "p.mlpackage"
    report = palettize_package(source, path, config(2), redo=True, check=True)
    assert report.check is not None
    assert report.check.bytes_before == report.bytes_before
    assert report.check.weights == compare(source, path, random=1).weights


def test_check_of_what_cannot_be_run_comes_first(fixtures: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOpError, match="future_op"):
        palettize_package(fixtures / "future_op_ios17.mlpackage", tmp_path / "p.mlpackage", config(), check=True)
    assert not list(tmp_path.iterdir())


def test_check_of_palettize(original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.mlpackage"
    shutil.copytree(original, path)
    report = palettize_package(path, path, config(), overwrite=True, check=True)
    assert report.check is not None
    assert report.check.original == report.check.palettized == str(path)
    assert report.check.outputs == compare(original, path).outputs
    assert "random inputs" in report.to_text()
    assert json.loads(report.to_json())["check"]["samples"] == 8
    other = tmp_path / "q.mlpackage"
    assert main(["palettize", str(original), str(other), "--nbits", "4", "--check"]) == 0
    assert "random inputs" in capsys.readouterr().out
    assert palettize_package(original, tmp_path / "r.mlpackage", config()).check is None
