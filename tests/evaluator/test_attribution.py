"""What each weight does to the error of the outputs: figures of numpy, places in the network, text, JSON and page."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from evaluator import mb, program_of, saved  # noqa: E402

from mil_palettize import OpPalettizerConfig, OptimizationConfig, compare, palettize_package  # noqa: E402
from mil_palettize.cli.main import main  # noqa: E402
from mil_palettize.torch import open_model  # noqa: E402

RNG = np.random.default_rng(3)
WIDTH, HIDDEN = 16, 24
WEIGHTS = {
    "first": RNG.standard_normal((HIDDEN, WIDTH)).astype(np.float32),
    "second": 3 * RNG.standard_normal((HIDDEN, HIDDEN)).astype(np.float32),
    "third": RNG.standard_normal((8, HIDDEN)).astype(np.float32),
}
SAMPLES = [{"x0": RNG.standard_normal((2, WIDTH)).astype(np.float32)} for _ in range(6)]


def network(x: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
    hidden = np.tanh(x.astype(np.float64) @ weights["first"].T)
    return np.maximum(hidden @ weights["second"].T, 0) @ weights["third"].T


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    def build(x: object) -> object:
        first, second, third = (mb.const(val=value, name=name) for name, value in WEIGHTS.items())
        hidden = mb.tanh(x=mb.linear(x=x, weight=first, name="one"))
        return mb.linear(x=mb.relu(x=mb.linear(x=hidden, weight=second, name="two")), weight=third, name="three")

    folder = tmp_path_factory.mktemp("network")
    path = saved(program_of(build, [((2, WIDTH), np.float32)]), folder)
    bits = {"first": 8, "second": 2, "third": 4}
    config = OptimizationConfig(
        op_name_configs={n: OpPalettizerConfig(nbits=bits[n], weight_threshold=10) for n in WEIGHTS}
    )
    palettize_package(path, folder / "small.mlpackage", config)
    return path, folder / "small.mlpackage"


def error(changed: list[str], small: dict[str, np.ndarray]) -> float:
    """Relative, over the first four samples."""
    weights = {name: small[name] if name in changed else value for name, value in WEIGHTS.items()}
    one, two = (np.stack([network(s["x0"], w) for s in SAMPLES[:4]]) for w in (WEIGHTS, weights))
    return float(((one - two) ** 2).sum() / (one**2).sum())


def test_figures_are_those_of_numpy(pair: tuple[Path, Path]) -> None:
    small = {name: value.detach().numpy() for name, value in open_model(pair[1]).weights.items()}
    found = compare(*pair, SAMPLES, per_op=True)
    (attribution,) = found.attributions
    alone = {name: error([name], small) for name in WEIGHTS}
    order = sorted(alone, key=lambda name: -alone[name])
    assert order[0] == "second"
    assert [one.name for one in attribution.losses] == order
    assert [one.error for one in attribution.losses] == pytest.approx([alone[name] for name in order], rel=1e-3)
    assert [one.reader for one in attribution.losses] == [
        {"first": "one", "second": "two", "third": "three"}[n] for n in order
    ]
    left = [error(order[count:], small) for count in (1, 2, 3)]
    assert [one.error_without for one in attribution.losses] == pytest.approx(left, rel=1e-3, abs=1e-12)
    assert attribution.error == pytest.approx(error(order, small), rel=1e-3)
    assert attribution.shares == pytest.approx([alone[name] / sum(alone.values()) for name in order], rel=1e-3)
    assert attribution.rows[-1][2] == pytest.approx(1)
    assert attribution.samples == 4
    for one, two in zip(found.outputs, compare(*pair, SAMPLES).outputs, strict=True):  # the weights are what they were
        assert one.snr_db == pytest.approx(two.snr_db, abs=1e-4)


def test_text_json_and_page(pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compare", *map(str, pair), "--random", "2"]
    assert main([*command, "--per-op", "--html", str(tmp_path / "page.html")]) == 0
    text = capsys.readouterr().out
    rows = [line.split() for line in text[text.index("Where the outputs' error comes from") :].splitlines()[3:6]]
    assert rows[0][0] == "second"
    assert rows[-1][3:] == ["100.0%", "equal"]
    page = (tmp_path / "page.html").read_text()
    assert "Where it was lost" in page
    assert 'class="shares"' in page
    assert main([*command, "--per-op", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["attributions"]
    assert [one["name"] for one in told["weights"]] == [row[0] for row in rows]
    assert told["weights"][-1]["snr_db_without"] is None
    assert math.fsum(one["share"] for one in told["weights"]) == pytest.approx(1)
    assert main([*command, "--html", str(tmp_path / "page.html")]) == 0  # a run for each weight is asked for
    assert "Where it was lost" not in (tmp_path / "page.html").read_text()


def test_nothing_changed(pair: tuple[Path, Path]) -> None:
    assert compare(pair[0], pair[0], SAMPLES[:1], per_op=True).attributions == []


def test_every_function_has_its_own(fixtures: Path, tmp_path: Path) -> None:
    original, small = fixtures / "multifunction_ios18.mlpackage", tmp_path / "small.mlpackage"
    palettize_package(original, small, OptimizationConfig(OpPalettizerConfig(nbits=3, weight_threshold=100)))
    found = compare(original, small, random=1, per_op=True, function="all")
    assert [one.function for one in found.attributions] == ["decode", "prefill"]
    names = {op.name for op in found.ops}
    for one in found.attributions:
        assert len(one.losses) == 2
        assert all(loss.name.startswith(f"{one.function}/") and loss.reader in names for loss in one.losses)
    assert "Where the outputs' error of prefill comes from, of 2 weights:" in found.to_text()


def test_pipelines(fixtures: Path, tmp_path: Path) -> None:
    """Stages name ops alike; what boxes a suppression leaves may be more or fewer."""
    for name in ("pipeline_ios17", "detector_ios16"):
        original, small = fixtures / f"{name}.mlpackage", tmp_path / f"{name}.mlpackage"
        palettize_package(original, small, OptimizationConfig(OpPalettizerConfig(nbits=2, weight_threshold=100)))
        found = compare(original, small, random=2, per_op=True)
        (one,) = found.attributions
        assert {loss.name for loss in one.losses} == {w.name for w in found.palettized_weights}
        assert {loss.reader for loss in one.losses} <= {op.name for op in found.ops}
