"""Biases: corrected where it was asked for and helps, written over the old ones, reported and verified."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb
from packages import constants

torch = pytest.importorskip("torch")

from evaluator import program_of, saved  # noqa: E402

from mil_palettize import Calibration, ConfigError, OpPalettizerConfig, OptimizationConfig, palettize_package  # noqa: E402
from mil_palettize.cli.main import main  # noqa: E402
from mil_palettize.errors import VerifyError  # noqa: E402
from mil_palettize.rewriting.verification import verify_package  # noqa: E402
from mil_palettize.torch import MILModule  # noqa: E402
from mil_palettize.torch.calibration.biases import corrected_biases  # noqa: E402
from mil_palettize.torch.calibration.walk import WalkOptions  # noqa: E402

CONFIG = OptimizationConfig(global_config=OpPalettizerConfig(nbits=1, weight_threshold=64))
SHAPES = {"one": (24, 16), "two": (16, 24)}


def drawn(name: str) -> np.ndarray:
    return np.random.default_rng(len(name)).normal(size=SHAPES[name]).astype(np.float32)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two layers; the biases of 24 and 16 lie in the weight file."""

    def network(x: Any) -> Any:
        biases = [np.linspace(-1, 1, count).astype(np.float32) for count in (24, 16)]
        hidden = mb.relu(x=mb.linear(x=x, weight=drawn("one"), bias=biases[0], name="one"))
        return mb.linear(x=hidden, weight=drawn("two"), bias=biases[1], name="two")

    folder = tmp_path / "in"
    folder.mkdir()
    return saved(program_of(network, [((1, 16), np.float32)]), folder)


def rows(count: int) -> list[dict[str, np.ndarray]]:
    """Of a mean far from zero, so that errors have one too."""
    made = np.random.default_rng(3).normal(2.0, 0.3, size=(count, 16))
    return [{"x0": row[None].astype(np.float32)} for row in made]


def test_the_mean_of_each_op_is_that_of_the_float_network(source: Path) -> None:
    """Op by op, with the biases before it corrected already; samples held out tell nothing."""
    module = MILModule.from_package(source)
    data = [module.features.tensors(sample) for sample in rows(12)]
    arrays = {slot: np.round(weight.detach().numpy() * 2) / 2 for slot, weight in module.weights.items()}
    biases = [slot for slot in module.function.constants if module.shapes[slot] in ((24,), (16,))]
    found = corrected_biases(module, data, arrays, biases, WalkOptions(held=frozenset({4, 9})))
    assert len(found) == 2
    inputs = np.concatenate([sample["x0"] for i, sample in enumerate(rows(12)) if i not in (4, 9)]).astype(float)
    weights = {weight.shape: weight.detach().numpy().astype(float) for weight in module.weights.values()}
    coarse = {array.shape: array.astype(float) for array in arrays.values()}
    old = [np.linspace(-1, 1, count) for count in (24, 16)]
    new = {array.size: array for array in found.values()}
    own = inputs @ weights[24, 16].T + old[0]
    first = old[0] + (own - inputs @ coarse[24, 16].T - old[0]).mean(axis=0)
    np.testing.assert_allclose(new[24], first, rtol=1e-4, atol=1e-5)
    hidden, rough = np.maximum(own, 0), np.maximum(inputs @ coarse[24, 16].T + first, 0)
    second = (hidden @ weights[16, 24].T - rough @ coarse[16, 24].T).mean(axis=0) + old[1]
    np.testing.assert_allclose(new[16], second, rtol=1e-4, atol=1e-4)
    assert not corrected_biases(module, data, arrays, (), WalkOptions())


def test_they_are_written_reported_and_verified(source: Path, tmp_path: Path) -> None:
    plain, made = tmp_path / "plain.mlpackage", tmp_path / "made.mlpackage"
    palettize_package(source, plain, CONFIG, calibration=Calibration(rows(40)))
    report = palettize_package(source, made, CONFIG, calibration=Calibration(rows(40), bias=True), verify=True)
    assert report.verified
    assert any(note.startswith("correcting biases: outputs of 'main' on 8 samples held out") for note in report.notes)
    assert report.biases
    assert "biases corrected" in report.to_text()
    assert [b["largest"] for b in json.loads(report.to_json())["biases"]] == [b.largest for b in report.biases]
    before, after = ({key[-1]: decode() for key, (_, decode) in constants(p).items()} for p in (plain, made))
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {bias.name for bias in report.biases}
    for bias in report.biases:
        assert bias.largest == pytest.approx(np.abs(after[bias.name] - before[bias.name].astype(float)).max())


def test_a_bias_that_is_not_as_reported_is_refused(source: Path, tmp_path: Path) -> None:
    made = tmp_path / "made.mlpackage"
    report = palettize_package(source, made, CONFIG, calibration=Calibration(rows(40), bias=True))
    first = report.biases[0]
    wrong = {
        "is not what was reported of it": [replace(first, digest="0" * 64)],
        "changed by up to": [replace(first, largest=first.largest * 2)],
        "was reported as corrected and is not there": [first, replace(first, name="other")],
        "was to be left alone and differs": [],
    }
    for message, biases in wrong.items():
        with pytest.raises(VerifyError, match=message):
            verify_package(source, made, replace(report, biases=[*biases, *report.biases[1:]] if biases else []))


def test_without_being_asked_they_stay(source: Path, tmp_path: Path) -> None:
    report = palettize_package(source, tmp_path / "o.mlpackage", CONFIG, calibration=Calibration(rows(40)))
    assert not report.biases
    assert "biases" not in report.to_text()


def test_where_it_is_no_gain_they_stay(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mil_palettize.torch import metrics

    noise = iter([1.0, 0.5, 1.0, 1.0])
    monkeypatch.setattr(metrics, "outputs_noise", lambda *given: next(noise))
    report = palettize_package(
        source, tmp_path / "o.mlpackage", CONFIG, calibration=Calibration(rows(40), bias=True), verify=True
    )
    assert not report.biases
    assert any(note.endswith("no gain: biases stay as they are") for note in report.notes)


def test_biases_of_several_functions_stay(fixtures: Path, tmp_path: Path) -> None:
    report = palettize_package(
        fixtures / "pipeline_ios17.mlpackage", tmp_path / "o.mlpackage", CONFIG,
        calibration=Calibration(samples=10, bias=True),
    )  # fmt: skip
    assert [note for note in report.notes if note.startswith("biases stay as they are: only")]


def test_bias_that_cannot_be(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="calibration bias needs samples"):
        Calibration(method="weights", bias=True)
    with pytest.raises(ConfigError, match="calibration bias is 1"):
        Calibration(bias=1)  # type: ignore[arg-type]
    out = tmp_path / "o.mlpackage"
    assert main(["palettize", str(source), str(out), "--nbits", "2", "--bias"]) == 2
    assert (
        capsys.readouterr().err.strip()
        == "mil-palettize: error: --bias goes with --calibrate and samples, which are run with it"
    )
    assert not out.exists()
