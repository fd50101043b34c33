"""Every function of a model is compared: one table, and a gate that the worst of them decides."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from evaluator import mb, program_of, saved  # noqa: E402

from mil_palettize import (  # noqa: E402
    EvaluationError,
    OpPalettizerConfig,
    OptimizationConfig,
    compare,
    palettize_package,
)
from mil_palettize.cli.main import main  # noqa: E402
from mil_palettize.torch.evaluator.model_pipeline import open_model  # noqa: E402
from mil_palettize.torch.made_up_inputs import plausible_inputs  # noqa: E402

FUNCTIONS = ("decode", "prefill")


@pytest.fixture(scope="module")
def original(fixtures: Path) -> Path:
    return fixtures / "multifunction_ios18.mlpackage"


@pytest.fixture(scope="module")
def ruined(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its function ``decode``, which is not the default one, lost most."""
    path = tmp_path_factory.mktemp("ruined") / "p.mlpackage"
    fine, bad = (OpPalettizerConfig(nbits=nbits, weight_threshold=100) for nbits in (8, 1))
    palettize_package(original, path, OptimizationConfig(fine, op_name_configs={"decode/adapter_weight": bad}))
    return path


def test_every_function_has_its_own_figures(original: Path, ruined: Path) -> None:
    found = compare(original, ruined, random=2, per_op=True, function="all")
    alone = {name: compare(original, ruined, random=2, per_op=True, function=name) for name in FUNCTIONS}
    assert {o.name: o.figures for o in found.outputs} == {
        f"{name}/{o.name}": o.figures for name, one in alone.items() for o in one.outputs
    }
    assert found.snr_db == alone["decode"].snr_db < alone["prefill"].snr_db - 10
    assert {w.name: w.snr_db for w in found.weights} == {
        f"{name}/{w.name}": w.snr_db for name, one in alone.items() for w in one.weights
    }
    assert len(found.ops) == sum(len(one.ops) for one in alone.values()) > 0
    assert not any("ask for each" in note for note in found.notes)
    assert sum("made up" in note for note in found.notes) == 1
    assert {output["name"] for output in json.loads(found.to_json())["outputs"]} == {o.name for o in found.outputs}


def test_a_gate_sees_every_function(original: Path, ruined: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = ["compare", str(original), str(ruined), "--random", "2"]
    assert main([*pair, "--fail-below", "30dB"]) == 1
    shown = capsys.readouterr()
    assert "output 'decode/" in shown.err
    assert "output 'prefill/" not in shown.err
    assert "prefill/" in shown.out
    assert main([*pair, "--fail-below", "30dB", "--function", "prefill"]) == 0
    assert main(pair) == 0
    assert "ask for each, or for 'all'" in capsys.readouterr().out


def test_a_check_sees_every_function(original: Path, tmp_path: Path) -> None:
    config = OptimizationConfig(OpPalettizerConfig(nbits=4, weight_threshold=100))
    report = palettize_package(original, tmp_path / "p.mlpackage", config, check=True)
    assert report.check is not None
    assert {output.name.partition("/")[0] for output in report.check.outputs} == set(FUNCTIONS)


def test_samples_of_each_function(original: Path, ruined: Path, tmp_path: Path) -> None:
    samples = {name: plausible_inputs(open_model(original, name), 2, 7) for name in FUNCTIONS}
    wanted = {
        f"{name}/{o.name}": o.figures
        for name in FUNCTIONS
        for o in compare(original, ruined, random=2, seed=7, function=name).outputs
    }
    given = compare(original, ruined, samples, function="all")
    assert {o.name: o.figures for o in given.outputs} == wanted
    for name, calls in samples.items():
        np.savez(tmp_path / f"{name}.npz", **{key: np.stack([call[key] for call in calls]) for key in calls[0]})
    read = compare(original, ruined, tmp_path, function="all")
    assert {o.name: o.figures for o in read.outputs} == wanted


def test_samples_that_a_function_does_not_take(original: Path, ruined: Path) -> None:
    samples = plausible_inputs(open_model(original, "prefill"), 1)
    with pytest.raises(EvaluationError, match=r"function 'decode': .* has shape .*; name the function that the inputs"):
        compare(original, ruined, samples, function="all")


def test_a_model_with_one_function(fixtures: Path) -> None:
    path = fixtures / "conv_fp16_ios18.mlpackage"
    assert compare(path, path, random=1, function="all").outputs == compare(path, path, random=1).outputs
    pipeline = fixtures / "pipeline_ios17.mlpackage"
    assert compare(pipeline, pipeline, random=1, function="all").outputs


def test_functions_of_one_model_only(original: Path, tmp_path: Path) -> None:
    other = saved(program_of(lambda x: mb.relu(x=x, name="y"), [((1, 8, 48), np.float32)]), tmp_path)
    with pytest.raises(EvaluationError, match=r"function 'decode' is of .*; name a function that both have"):
        compare(original, other, random=1, function="all")
