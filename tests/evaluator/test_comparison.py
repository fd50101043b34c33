"""Comparing packages by running them: figures, and what is compared."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from compared_packages import config  # noqa: E402
from evaluator import mb, program_of, saved  # noqa: E402

from mil_palettize import (  # noqa: E402
    ConfigError,
    EvaluationError,
    compare,
    palettize_package,
)
from mil_palettize.torch import open_model  # noqa: E402
from mil_palettize.torch.made_up_inputs import plausible_inputs  # noqa: E402
from mil_palettize.torch.metrics import Sums  # noqa: E402
from mil_palettize.torch.predictions import run_package  # noqa: E402

RNG = np.random.default_rng(0)


# Figures


def test_figures_are_those_of_numpy() -> None:
    sums = Sums()
    xs = [RNG.standard_normal((3, 5)) for _ in range(4)]
    ys = [x + 0.1 * RNG.standard_normal((3, 5)) for x in xs]
    for x, y in zip(xs, ys, strict=True):
        sums.add(torch.from_numpy(x), torch.from_numpy(y))
    x, y = np.concatenate(xs).reshape(-1), np.concatenate(ys).reshape(-1)
    found = sums.distance()
    noise = np.sum((x - y) ** 2)
    assert found.elements == x.size
    assert found.snr_db == pytest.approx(10 * np.log10(np.sum(x**2) / noise))
    assert found.psnr_db == pytest.approx(10 * np.log10((x.max() - x.min()) ** 2 / (noise / x.size)))
    assert found.cosine == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
    assert found.max_abs == pytest.approx(np.abs(x - y).max())
    assert found.non_finite == 0


def test_equal_and_lost_values() -> None:
    inf, nan = math.inf, math.nan
    same, lost, zeros = Sums(), Sums(), Sums()
    same.add(torch.tensor([1.0, inf, nan, -inf]), torch.tensor([1.0, inf, nan, -inf]))
    assert same.distance().equal
    assert same.distance().snr_db == inf
    lost.add(torch.tensor([1.0, 2.0, inf]), torch.tensor([1.0, nan, -inf]))
    assert lost.distance().non_finite == 1
    assert lost.distance().original_non_finite == lost.distance().original_changed == 1
    assert lost.distance().snr_db == lost.distance().psnr_db == -inf
    assert math.isnan(lost.distance().cosine)
    assert not lost.distance().equal
    zeros.add(torch.zeros(3), torch.ones(3))
    assert zeros.distance().snr_db == -inf
    assert Sums().distance().equal


def test_large_and_small_values_do_not_overflow() -> None:
    large, small, masked, nothing = Sums(), Sums(), Sums(), Sums()
    large.add(torch.tensor([1e18, 2.0]), torch.tensor([1e20, 2.0]))
    assert large.distance().snr_db == pytest.approx(-39.9, abs=0.1)
    small.add(torch.tensor([1e-30, 1e-30]), torch.tensor([1e-30, 2e-30]))
    assert small.distance().snr_db == pytest.approx(10 * np.log10(2), abs=0.1)
    least = torch.finfo(torch.float32).min
    masked.add(torch.tensor([1.0, least, 3.0]), torch.tensor([1.5, least, 3.0]))
    assert masked.distance().snr_db == pytest.approx(10 * np.log10(10 / 0.25))
    nothing.add(torch.tensor([math.nan, math.nan]), torch.tensor([math.nan, math.nan]))
    assert math.isnan(nothing.distance().snr_db)
    assert nothing.distance().original_non_finite == 2
    assert nothing.distance().nothing == "the original is nowhere finite"
    assert not nothing.distance().equal


# Comparisons


def test_random_ops_draw_the_same_for_both(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        return mb.add(x=x, y=mb.random_normal(shape=np.array([100], np.int32)), name="y")

    path = saved(program_of(build, [((100,), np.float32)]), tmp_path)
    found = compare(path, path, random=2)
    assert found.snr_db == math.inf
    assert any("random numbers" in note for note in found.notes)
    one, two = (run_package(path).outputs["y"] for _ in range(2))
    assert np.array_equal(one, two)


def test_stages_of_a_pipeline_keep_their_ops_apart(fixtures: Path, tmp_path: Path) -> None:
    source, path = fixtures / "pipeline_ios17.mlpackage", tmp_path / "p.mlpackage"
    palettize_package(source, path, config(2))
    found = compare(source, path, random=1, per_op=True)
    labels = {op.name.partition("/")[0] for op in found.ops}
    assert len(labels) > 1
    assert len({op.name for op in found.ops}) == len(found.ops)
    assert found.weights


def test_outputs_of_other_lengths(tmp_path: Path) -> None:
    """What is found depends on the values: as many rows as the model makes."""

    def model(bound: float, name: str) -> Path:
        def build(x: Any) -> Any:
            return mb.cast(x=mb.non_zero(x=mb.greater(x=x, y=np.float32(bound))), dtype="fp32", name="y")

        folder = tmp_path / name
        folder.mkdir()
        return saved(program_of(build, [((50,), np.float32)]), folder)

    found = compare(model(0.0, "a"), model(0.1, "b"), random=1)
    assert math.isfinite(found.snr_db)
    assert any("longer or shorter in 1 of 1 samples" in note for note in found.notes)


def test_outputs_of_one_model_only(tmp_path: Path) -> None:
    def model(name: str, outputs: int) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        names = ["y", "z"][:outputs]
        build = lambda x: tuple(mb.mul(x=x, y=2.0, name=n) for n in names)  # noqa: E731
        return saved(program_of(build, [((2, 3), np.float32)]), folder)

    one, two = model("one", 1), model("two", 2)
    told = {one: f"{one} takes 'x0' [2, 3] and gives 'y'", two: f"{two} takes 'x0' [2, 3] and gives 'y', 'z'"}
    for pair in ((one, two), (two, one)):
        with pytest.raises(EvaluationError) as caught:
            compare(*pair, random=1)
        assert str(caught.value) == (
            f"these are different models: {told[pair[0]]}; {told[pair[1]]}; compare a model with its palette"
        )


def test_functions_that_are_not_compared_are_named(fixtures: Path) -> None:
    path = fixtures / "multifunction_ios18.mlpackage"
    assert any("ask for each" in note for note in compare(path, path, random=1).notes)
    assert not any("ask for each" in n for n in compare(path, path, random=1, function="decode").notes)


def test_a_model_equals_itself(original: Path) -> None:
    found = compare(original, original, random=2)
    assert found.snr_db == math.inf
    assert all(output.figures.equal for output in found.outputs if output.figures)
    assert not found.palettized_weights
    assert json.loads(found.to_json())["snr_db"] is None


def test_a_palette_costs_less_with_more_bits(original: Path, tmp_path: Path) -> None:
    found = []
    for nbits in (2, 4, 6, 8):
        path = tmp_path / f"{nbits}.mlpackage"
        palettize_package(original, path, config(nbits))
        found.append(compare(original, path, random=2).snr_db)
    assert found == sorted(found)
    assert found[0] > 0
    assert found[-1] > 30


def test_what_a_comparison_holds(original: Path, palettized: Path) -> None:
    found = compare(original, palettized, random=3, seed=5, per_op=True, histograms=2)
    assert found.samples == 3
    assert found.inputs == "random inputs from the description, seed 5"
    assert found.notes
    assert found.bytes_after < found.bytes_before
    assert {w.name for w in found.palettized_weights} == {w.name for w in found.weights if w.bits < 16}
    worst = sorted(found.palettized_weights, key=lambda w: w.snr_db)[:2]
    for weight in worst:
        assert sum(weight.counts) == math.prod(weight.shape)
        assert len(weight.edges) == len(weight.counts) + 1
        assert len(weight.entries) <= 16
    assert found.ops
    assert found.unmatched == 0
    assert min(op.figures.snr_db for op in found.ops) < math.inf


def test_snr_of_weights_is_that_of_the_report(original: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.mlpackage"
    report = palettize_package(original, path, config())
    found = {w.name: w for w in compare(original, path, random=1).weights}
    for weight in report.palettized:
        assert found[weight.name].snr_db == pytest.approx(weight.snr_db, rel=1e-9)
        assert found[weight.name].bytes_after == weight.bytes_after
        assert found[weight.name].bytes_before == weight.bytes_before


def test_the_same_inputs_give_the_same_figures(original: Path, palettized: Path) -> None:
    one, two, three = (compare(original, palettized, random=2, seed=seed) for seed in (1, 1, 2))
    assert one.outputs == two.outputs != three.outputs


def test_given_inputs(original: Path, palettized: Path) -> None:
    samples = plausible_inputs(open_model(original), 2, 3)
    given = compare(original, palettized, samples)
    assert given.outputs == compare(original, palettized, random=2, seed=3).outputs
    assert not given.notes
    assert compare(original, palettized, samples[0]).samples == 1
    with pytest.raises(EvaluationError, match="there are no inputs"):
        compare(original, palettized, [])


def test_classifier_agreement(fixtures: Path, tmp_path: Path) -> None:
    source, path = fixtures / "image_classifier_ios15.mlpackage", tmp_path / "p.mlpackage"
    palettize_package(source, path, config(2))
    found = compare(source, path, random=4)
    judged = [output for output in found.outputs if output.agreement is not None]
    assert judged
    assert all(0 <= output.agreement <= 1 for output in judged)
    assert compare(source, source, random=2).snr_db == math.inf


def test_models_that_do_not_go_together(fixtures: Path, original: Path) -> None:
    with pytest.raises(EvaluationError):
        compare(original, fixtures / "recurrent_fp16_ios17.mlpackage", random=1)


def test_wrong_requests(original: Path) -> None:
    with pytest.raises(ConfigError, match="runtime is 'cuda'; use one of"):
        compare(original, original, runtime="cuda")
    with pytest.raises(ConfigError, match="random is 0"):
        compare(original, original, random=0)
    with pytest.raises(ConfigError, match="per_op goes with the runtime 'torch'"):
        compare(original, original, runtime="coreml", per_op=True)
