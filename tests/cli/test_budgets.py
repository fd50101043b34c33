"""A budget on the command line."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import CLI_ERROR, IN, OUT, PALETTIZE, Run

from mil_palettize.doors import budget


def nbytes(package: str) -> int:
    return sum(file.stat().st_size for file in Path(package).rglob("*") if file.is_file())


def test_a_size(run: Run) -> None:
    code, shown, errors = run(*PALETTIZE, "--target-size", "24kB")
    assert (code, errors) == (0, "")
    assert 20_000 < nbytes(OUT) <= 24_000
    assert f"planned: {nbytes(OUT):,} bytes" in shown
    assert "calibrated by the weights alone" in shown


def test_the_time_is_that_of_the_plan_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, plan = [0.0], budget.plan_mixed_bits

    def slowly(*arguments: Any, **options: Any) -> Any:
        clock[0] += 5000
        return plan(*arguments, **options)

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(budget, "plan_mixed_bits", slowly)
    code, shown, _ = run(*PALETTIZE, "--target-size", "24kB", "--unmeasured", "--json")
    assert (code, json.loads(shown)["seconds"]) == (0, 5000)


def test_bits_per_weight(run: Run) -> None:
    code, shown, _ = run(*PALETTIZE, "--bits-per-weight", "3.5", "--json")
    weights = [w for w in json.loads(shown)["weights"] if w["status"] == "palettized"]
    assert code == 0
    assert {w["nbits"] for w in weights} > {4}
    stored, elements = sum(w["bytes_after"] for w in weights), sum(w["bytes_before"] // 2 for w in weights)
    assert stored * 8 <= 3.5 * elements


def test_a_recipe_makes_the_same_package(run: Run) -> None:
    code, shown, errors = run(
        "plan", IN, "--target-size", "24kB", "--out", "recipe.yaml", "--plot", "curve.svg", "--json"
    )
    assert (code, errors) == (0, "")
    assert Path("curve.svg").read_text().startswith("<svg")
    code, _, _ = run(*PALETTIZE, "--config", "recipe.yaml", "--calibrate", "weights", "--strict")
    assert code == 0
    assert nbytes(OUT) == json.loads(shown)["nbytes"]
    code, _, _ = run("palettize", IN, "direct.mlpackage", "--target-size", "24kB")
    for file in sorted(path.relative_to(OUT) for path in Path(OUT).rglob("*") if path.is_file()):
        assert Path(OUT, file).read_bytes() == Path("direct.mlpackage", file).read_bytes()


def test_a_recipe_is_edited_with_patterns(run: Run) -> None:
    Path("recipe.yaml").write_text(
        "config_type: OpPalettizerConfig\nop_name_configs:\n  're:.*head.*': null\n  're:.*_weight': {nbits: 4}\n"
    )
    code, shown, _ = run(*PALETTIZE, "--config", "recipe.yaml", "--json")
    assert code == 0
    status = {w["name"]: w["status"] for w in json.loads(shown)["weights"]}
    assert status["head_weight"] == "skipped"
    assert status["stem_weight"] == status["up_weight"] == "palettized"


def test_what_the_plan_decided_is_not_laid_to_a_config(run: Run) -> None:
    code, shown, _ = run(*PALETTIZE, "--bits-per-weight", "6", "--keep", "stem_weight", "--unmeasured")
    assert code == 0
    assert "left alone by the plan: keep['stem_weight'] asks for it: stem_weight" in shown
    assert "op_name_configs" not in shown
    assert re.search(r"bits per weight, [\d.]+ dB told beforehand; ", shown)


def test_limits(run: Run) -> None:
    asked = ("plan", IN, "--bits-per-weight", "6", "--json", "--keep", "stem_weight", "--keep", "re:h.*=6")
    code, shown, _ = run(*asked)
    found = {one["names"][0]: one["options"] for one in json.loads(shown)["chosen"]}
    assert code == 0
    assert found["stem_weight"] is None
    assert found["head_weight"] is None or found["head_weight"]["nbits"] >= 6


@pytest.mark.parametrize(
    ("arguments", "told", "code"),
    [
        (("--target-size", "1kB"), "1,000 bytes cannot be reached: the smallest package is", 4),
        (("--target-size", "20kB", "--nbits", "4"), "exclude each other", 2),
        (("--target-size", "20kB", "--redo"), "exclude each other", 2),
        (("--nbits", "4", "--keep", "a"), "leaves a weight alone: op_name_configs: {NAME: null}", 2),
        (("--nbits", "4", "--for", "ane"), "--for goes with", 2),
        (("--target-size", "20kB", "--keep", "nowhere"), "matches no weight", 4),
        (("--target-size", "20kB", "--keep", "re:("), "no regular expression", 2),
        (("--target-size", "20kB", "--keep", "a=5"), "allowed are", 2),
        (("--target-size", "20kB", "--keep", "a", "--keep", "a=6"), "--keep a is given twice", 2),
        (("--target-size", "20kB", "--ends", "5"), "ends is 5, allowed are", 2),
        (("--target-size", "20kB", "--group-size", "8", "--vectors"), "leave one out", 2),
        (("--target-size", "20kB", "--select", "all"), "--select weights", 2),
        (("--nbits", "4", "--labels", "y.npy"), "--labels goes with", 2),
        (("--nbits", "4", "--unmeasured"), "--unmeasured goes with", 2),
        (("--target-size", "20kB", "--labels", "y.npy"), "go with max_drop", 2),
        (("--max-drop", "1%"), "give them to calibrate on (--calibrate)", 2),
        (("--target-size", "20kB", "--sensitivity", "nowhere.npz"), "nowhere.npz", 3),
    ],
)
def test_what_cannot_be(run: Run, arguments: tuple[str, ...], told: str, code: int) -> None:
    found, _, errors = run(*PALETTIZE, *arguments)
    assert found == code
    assert errors.startswith(CLI_ERROR)
    assert told in errors
    assert not Path(OUT).exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--target-size", "x"),
        ("--bits-per-weight", "0"),
        ("--keep", "=4"),
        ("--max-drop", "2"),
        ("--max-drop", "1%", "--target-size", "20kB"),
        (),
    ],
)
def test_wrong_values(run: Run, arguments: tuple[str, ...]) -> None:
    code, _, errors = run("plan", IN, *arguments)
    assert code == 2
    assert errors.count("\n") == 1


def test_without_measuring(run: Run) -> None:
    code, shown, _ = run("plan", IN, "--bits-per-weight", "3.5", "--unmeasured", "--json")
    found = json.loads(shown)
    assert code == 0
    assert found["trials"] == []
    assert found["rank_correlation"] is None
    assert found["notes"][-1] == "not measured beside uniform bits: it was not asked for"


def test_measured(run: Run) -> None:
    pytest.importorskip("torch")
    code, shown, _ = run("plan", IN, "--min-snr", "20dB", "--json")
    found = json.loads(shown)
    assert code == 0
    assert len(found["trials"]) > 2
    assert found["nbytes"] == min(trial["nbytes"] for trial in found["trials"] if trial["snr_db"] >= 20.0)
    assert found["rank_correlation"] > 0.5


def test_accuracy(run: Run, fixtures: Path) -> None:
    pytest.importorskip("torch")
    from mil_palettize.torch import open_model
    from mil_palettize.torch.made_up_inputs import plausible_inputs

    source = fixtures / "image_classifier_ios15.mlpackage"
    samples = plausible_inputs(open_model(source), 10)
    np.savez("x.npz", **{name: np.stack([sample[name] for sample in samples]) for name in samples[0]})
    Path("y.csv").write_text("label\n" + "fish\n" * 10)
    asked = ("--max-drop", "50%", "--calibrate", "x.npz", "--labels", "y.csv", "--target", "iOS16")
    code, shown, errors = run("palettize", str(source), OUT, *asked, "--json")
    assert code == 0, errors
    assert "accuracy is that of 2 held out samples, of which one is 50 points" in json.loads(shown)["notes"]


def test_an_answer_that_errors_do_not_show_in(run: Run, tmp_path: Path) -> None:
    """A label is no number: samples cannot tell which weights count, and the plan is by the weights."""
    pytest.importorskip("torch")
    from evaluator import mb, program_of, saved

    random = np.random.default_rng(0)
    weight = random.standard_normal((24, 96)).astype(np.float32)
    program = program_of(
        lambda x: mb.reduce_argmax(x=mb.matmul(x=x, y=weight), axis=1, name="label"), [((1, 24), np.float32)]
    )
    source = saved(program, tmp_path)
    code, shown, errors = run("plan", str(source), "--bits-per-weight", "4", "--calibrate", "8", "--json")
    assert code == 0, errors
    assert (
        "no output is of floats that errors could show in: planned by the weights alone" in json.loads(shown)["notes"]
    )


def test_sensitivity(run: Run) -> None:
    weight = np.ones((24, 16, 3, 3), np.float32)
    weight[0] = 1e4
    np.savez("s.npz", stem_weight=weight)
    asked = ("--bits-per-weight", "3.5", "--unmeasured", "--json")
    plain, counted = (json.loads(run("plan", IN, *asked, *more)[1]) for more in ((), ("--sensitivity", "s.npz")))
    assert any("given importance" in note for note in counted["notes"])
    assert [one["error"] for one in plain["chosen"]] != [one["error"] for one in counted["chosen"]]
    code, shown, _ = run(*PALETTIZE, "--bits-per-weight", "3.5", "--unmeasured", "--sensitivity", "s.npz")
    assert code == 0
    assert f"planned: {nbytes(OUT):,} bytes" in shown


def test_a_place_that_is_taken_is_told_first(run: Run) -> None:
    Path(OUT).mkdir()
    code, _, errors = run(*PALETTIZE, "--target-size", "24kB")
    assert code == 3
    assert "overwrite" in errors
