"""Samples that are run together, against each by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from evaluator import mb, opened  # noqa: E402

from mil_palettize import EvaluationError, OpPalettizerConfig, OptimizationConfig, compare, palettize_package  # noqa: E402
from mil_palettize.torch import ahead  # noqa: E402
from mil_palettize.torch.ahead import Ahead, in_turn  # noqa: E402
from mil_palettize.torch.evaluator.model_pipeline import open_model  # noqa: E402
from mil_palettize.torch.made_up_inputs import plausible_inputs  # noqa: E402
from mil_palettize.torch.predictions import run_package  # noqa: E402

TOGETHER = ["conv_fp16_ios18", "image_classifier_ios15", "embedding_linear_ios16", "joint_ios18"]
PACKAGES = [*TOGETHER, "recurrent_fp16_ios17", "loop_ios16", "pipeline_ios17", "stateful_ios18", "flexible_ios16"]
X = [((1, 4), np.float32)]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many samples each call that succeeded had."""
    found: list[int] = []
    original = ahead.mapped

    def counted(run: Any, samples: Any) -> Any:
        results = original(run, samples)
        found.append(len(samples))
        return results

    monkeypatch.setattr(ahead, "mapped", counted)
    return found


def close(one: Any, two: Any) -> None:
    """To 1e-6 of what is largest."""
    if isinstance(two, np.ndarray) and two.dtype.kind == "f":
        assert one.dtype == two.dtype
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-6 * max(1e-30, float(np.abs(two).max())))
    elif isinstance(two, dict):
        assert one.keys() == two.keys()
        np.testing.assert_allclose(list(one.values()), list(two.values()), rtol=1e-5, atol=1e-6)
    else:
        assert np.array_equal(one, two)


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize("memory", [None, 1000])
def test_results_are_those_of_each_sample(name: str, memory: int | None, fixtures: Path, calls: list[int]) -> None:
    module = open_model(fixtures / f"{name}.mlpackage", memory=memory)
    samples = plausible_inputs(module, 6)
    together = Ahead(module)
    found = [module.features.outputs(together.results(sample)) for sample in in_turn(samples, [together])]
    for sample, outputs in zip(samples, found, strict=True):
        wanted = module.predict(sample)
        assert outputs.keys() == wanted.keys()
        for output, value in wanted.items():
            close(outputs[output], value)
    if name in TOGETHER:
        assert calls == [5]


def test_comparisons_say_the_same(fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, small = fixtures / "conv_fp16_ios18.mlpackage", tmp_path / "small.mlpackage"
    palettize_package(source, small, OptimizationConfig(OpPalettizerConfig(nbits=3)))
    together = compare(source, small, random=20)
    assert compare(source, source, random=20).snr_db == np.inf
    monkeypatch.setattr(ahead, "_MOST", 1)
    for one, two in zip(together.outputs, compare(source, small, random=20).outputs, strict=True):
        assert one.snr_db == pytest.approx(two.snr_db, abs=1e-4)
        assert one.agreement == two.agreement


def test_what_looks_at_values_is_run_one_by_one(tmp_path: Path, calls: list[int]) -> None:
    def build(x: Any) -> Any:
        found = mb.non_zero(x=mb.relu(x=x))
        return mb.reduce_sum(x=mb.cast(x=found, dtype="fp32"), axes=[0, 1], keep_dims=False)

    module = opened(build, X, tmp_path)
    samples = [{"x0": np.array([[1, -1, number % 2, 1]], np.float32)} for number in range(5)]
    together = Ahead(module)
    found = [together.results(sample) for sample in in_turn(samples, [together])]
    assert [[float(value) for value in one.values()] for one in found] == [[3.0], [5.0], [3.0], [5.0], [3.0]]
    assert not calls
    assert together.at_once == 1


def test_random_numbers_are_drawn_for_each_sample(tmp_path: Path, calls: list[int]) -> None:
    module = opened(lambda x: mb.add(x=x, y=mb.random_normal(shape=[1, 4])), X, tmp_path)
    np.savez(tmp_path / "x.npz", x0=np.zeros((3, 1, 4), np.float32))
    (found,) = run_package(module.package.path, tmp_path / "x.npz").outputs.values()
    assert not calls
    assert len(np.unique(found)) == 12


def test_a_wrong_sample_is_told_when_its_turn_comes(tmp_path: Path, calls: list[int]) -> None:
    module = opened(lambda x: mb.relu(x=x), X, tmp_path)
    samples = [{"x0": np.ones((1, 4 if number < 3 else 5), np.float32)} for number in range(5)]
    together, done = Ahead(module), []
    with pytest.raises(EvaluationError, match="5"):
        done += [together.results(sample) for sample in in_turn(samples, [together]) if not done.append(sample)]
    assert len(done) == 4
    assert not calls


@pytest.mark.parametrize(("size", "most"), [(1, 16), (1 << 22, 4), (1 << 25, 1)])
@pytest.mark.parametrize("large", ["inputs", "outputs"])
def test_samples_of_a_call_are_few_where_they_are_large(large: str, size: int, most: int, tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        return mb.tile(x=x, reps=[1, size]) if large == "outputs" else mb.reduce_sum(x=x, axes=[1], keep_dims=True)

    shape = (1, 1 if large == "outputs" else size)
    together = Ahead(opened(build, [(shape, np.float32)], tmp_path))
    together.results({"x0": np.ones(shape, np.float32)})
    assert together.at_once == most


def test_memory_is_claimed_for_all_samples(tmp_path: Path, calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    from mil_palettize.torch.evaluator import memory

    module = opened(lambda x: mb.tile(x=x, reps=[1, 1000]), [((1, 100), np.float32)], tmp_path)
    samples = [{"x0": np.full((1, 100), number, np.float32)} for number in range(8)]
    monkeypatch.setattr(memory, "_ALWAYS", 100_000)
    for free, wanted in ((10_000_000, [7]), (2_000_000, [])):  # 400 kB each, of which half of what is free may be taken
        monkeypatch.setattr(memory, "free_bytes", lambda free=free: free)
        calls.clear()
        together = Ahead(module)
        for number, sample in enumerate(in_turn(samples, [together])):
            (found,) = together.results(sample).values()
            assert found.shape == (1, 100_000)
            assert bool((found == number).all())
        assert calls == wanted
