"""Comparing packages by running them: figures, made up inputs, files of samples, commands, ``--check``."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from evaluator import mb, program_of, saved  # noqa: E402

from mil_palettize import (  # noqa: E402
    ConfigError,
    EvaluationError,
    OpPalettizerConfig,
    OptimizationConfig,
    PackageError,
    UnsupportedOpError,
    compare,
    palettize_package,
)
from mil_palettize.cli.main import main  # noqa: E402
from mil_palettize.torch import open_model  # noqa: E402
from mil_palettize.torch.made_up_inputs import plausible_inputs, table_sizes  # noqa: E402
from mil_palettize.torch.metrics import Sums  # noqa: E402
from mil_palettize.torch.predictions import run_package  # noqa: E402
from mil_palettize.torch.samples import read_samples  # noqa: E402

RNG = np.random.default_rng(0)


def config(nbits: int = 4, **options: Any) -> OptimizationConfig:
    return OptimizationConfig(global_config=OpPalettizerConfig(nbits=nbits, weight_threshold=100, **options))


@pytest.fixture
def original(fixtures: Path) -> Path:
    return fixtures / "conv_fp16_ios18.mlpackage"


@pytest.fixture
def palettized(original: Path, tmp_path: Path) -> Path:
    path = tmp_path / "palettized.mlpackage"
    palettize_package(original, path, config())
    return path


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
