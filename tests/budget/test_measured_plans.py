"""The smallest plan that measures well enough."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

import numpy as np

from mil_palettize import Budget, Calibration, Limits, Recipe, compare, palettize_package, plan_mixed_bits
from mil_palettize.budget.granularities import Granularity
from mil_palettize.budget.planner import planned
from mil_palettize.budget.ranks import rank_correlation
from mil_palettize.budget.trials import Trial
from mil_palettize.budget.uniform_plans import uniform_plans
from mil_palettize.budget.weighed_choices import Source, Weighed
from mil_palettize.budget.weighing import weighed
from mil_palettize.doors import budget as door
from mil_palettize.doors.measured_plans import Measure, no_worse, smallest_reaching
from mil_palettize.encoding.workers import Workers
from mil_palettize.errors import EvaluationError

CONV = "conv_fp16_ios18.mlpackage"
UNIFORM = ("3 bits", "4 bits", "6 bits", "8 bits")
ALONE = Calibration(method="weights")


@pytest.fixture(scope="module")
def found() -> Weighed:
    source = Path(__file__).resolve().parents[2] / "fixtures" / CONV
    with Workers(1) as pool:
        return weighed(Source(source), Limits(), Budget(min_snr_db=1.0), pool)


def measuring(decibels: dict[str, float]) -> Measure:
    """Decibels by granularity, "" for mixed bits."""

    def measure(recipe: Recipe) -> Trial:
        return Trial(recipe.nbytes, recipe.error, decibels.get(recipe.uniform, 0.0), recipe.uniform)

    return measure


@pytest.mark.slow
def test_it_measures_so(fixtures: Path, tmp_path: Path) -> None:
    source, out = fixtures / CONV, tmp_path / "out.mlpackage"
    asked = 22.0
    recipe = plan_mixed_bits(source, Budget(min_snr_db=asked), limits=Limits(group_size=0))
    palettize_package(source, out, recipe, calibration=ALONE)
    assert compare(source, out).snr_db >= asked
    assert recipe.nbytes < recipe.bytes_before
    assert recipe.nbytes == min(trial.nbytes for trial in recipe.trials if trial.snr_db >= asked)
    worse = [trial.nbytes for trial in recipe.trials if trial.snr_db < asked and not trial.uniform]
    assert max(worse) < recipe.nbytes < 1.03 * max(worse)


def test_at_the_ends(found: Weighed) -> None:
    smallest = smallest_reaching(found, lambda trial: trial.snr_db >= 10.0, Limits(), measuring({"": 11.0}))
    assert smallest.nbytes == found.smallest
    none = smallest_reaching(found, lambda trial: trial.snr_db >= 10.0, Limits(), measuring({}))
    assert none.nbytes == none.bytes_before
    assert len({trial.nbytes for trial in none.trials if not trial.uniform}) > 5


def test_what_loses_nothing_where_no_plan_reaches(fixtures: Path) -> None:
    """Palettes without error stay in the plan, and the note does not say that all weights are as they were."""
    with Workers(1) as pool:
        odd = weighed(Source(fixtures / "odd_values_ios18.mlpackage"), Limits(), Budget(min_snr_db=1.0), pool)
    note = "no palette that loses anything measured as is asked for"
    none = smallest_reaching(odd, lambda trial: False, Limits(), measuring({}))
    assert sum(one.options is not None for one in none.chosen) == 4
    assert none.error == 0
    assert none.notes[-1] == note
    reached = smallest_reaching(odd, lambda trial: trial.error == 0, Limits(), measuring({}))
    assert reached.chosen == none.chosen
    assert note not in reached.notes


def test_the_smallest_may_be_uniform(found: Weighed) -> None:
    """Where mixed bits of no size measure so."""
    recipe = smallest_reaching(
        found, lambda trial: trial.snr_db >= 10.0, Limits(), measuring(dict.fromkeys(UNIFORM, 11.0))
    )
    assert recipe.uniform == "3 bits"
    assert {one.options["nbits"] for one in recipe.chosen if one.options} == {3}


def test_uniform_bits_of_a_budget(found: Weighed, tmp_path: Path) -> None:
    """They have the most bits that fit, and the bytes that they are said to have."""
    budget = Budget(nbytes=20_000)
    one_table, grouped = uniform_plans(found, budget, "any")
    assert one_table.uniform == "3 bits"
    assert "table per channel" in grouped.uniform or "groups of" in grouped.uniform
    for recipe in (one_table, grouped):
        out = tmp_path / f"{recipe.uniform}.mlpackage"
        report = palettize_package(found.source.path, out, recipe)
        assert report.bytes_after == recipe.nbytes <= budget.nbytes
        assert len({weight.nbits for weight in report.palettized}) == 1
    larger = Granularity(4).picked(found.choices)
    assert larger is not None
    assert found.written_nbytes(larger) > budget.nbytes


def test_uniform_bits_are_given_where_they_are_better(found: Weighed) -> None:
    budget = Budget(nbytes=20_000)
    plan, uniform = planned(found, budget, "any"), uniform_plans(found, budget, "any")
    better = no_worse(plan, uniform, measuring({"": 9.0, "3 bits": 11.0}))
    assert better.chosen == uniform[0].chosen
    assert better.notes[-1] == (
        "uniform 3 bits are what is given: they measured 11.0 dB at the outputs, mixed bits 9.0 dB"
    )
    same = no_worse(plan, uniform, measuring({"": 11.0, "3 bits": 11.0}))
    assert same.chosen == plan.chosen
    assert same.notes[-1].startswith("mixed bits measured 11.0 dB")
    assert [trial.uniform for trial in same.trials] == ["", *(one.uniform for one in uniform)]


def test_trials_are_told(found: Weighed) -> None:
    """What is tried, its size, what it measured, and how far that is."""
    told: list[tuple[str, int, int]] = []
    budget = Budget(nbytes=20_000)
    plan, uniform = planned(found, budget, "any"), uniform_plans(found, budget, "any")
    no_worse(plan, uniform, measuring({"": 9.0, "3 bits": 11.0}), lambda *one: told.append(one))
    mixed = f"mixed bits, {plan.nbytes:,} bytes"
    assert told[:2] == [
        (f"trying {mixed}", 0, 3),
        (f"trying uniform 3 bits, {uniform[0].nbytes:,} bytes ({mixed}, 9.0 dB)", 1, 3),
    ]
    assert told[3:] == [(f"uniform {uniform[1].uniform}, {uniform[1].nbytes:,} bytes, 0.0 dB", 3, 3)]
    told.clear()
    asked = measuring({"": 11.0})
    smallest_reaching(found, lambda trial: trial.nbytes > 20_000, Limits(), asked, lambda *one: told.append(one))
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert {total for *_, total in told} == {9}
    assert [one.startswith("trying") for one, *_ in told] == [True] * (len(told) - 1) + [False]


def test_bits_that_turn_out_to_be_uniform(found: Weighed) -> None:
    one_table, grouped = uniform_plans(found, Budget(nbytes=20_000), "any")
    plan = replace(one_table, uniform="")
    recipe = no_worse(plan, [one_table, grouped], measuring({"3 bits": 11.0}))
    assert recipe.chosen == plan.chosen
    assert [trial.uniform for trial in recipe.trials] == ["3 bits", grouped.uniform]
    assert recipe.notes[-1].startswith("uniform 3 bits measured 11.0 dB at the outputs, uniform ")


def test_a_plan_is_measured(fixtures: Path, tmp_path: Path) -> None:
    """Its figures are those of the packages that it and uniform bits make."""
    source = fixtures / CONV
    recipe = plan_mixed_bits(source, Budget(nbytes=20_000), limits=Limits(group_size=0))
    mixed, uniform = recipe.trials
    assert uniform.uniform == "3 bits"
    assert recipe.uniform == ("3 bits" if uniform.snr_db > mixed.snr_db else "")
    palettize_package(source, tmp_path / "out.mlpackage", recipe, calibration=ALONE)
    best = compare(source, tmp_path / "out.mlpackage").snr_db
    assert best == pytest.approx(max(mixed.snr_db, uniform.snr_db))


def test_nothing_can_be_measured(fixtures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, budget = fixtures / CONV, Budget(nbytes=20_000)
    monkeypatch.setattr(door, "_MOST", 1)
    recipe = plan_mixed_bits(source, budget)
    assert recipe.notes[-1] == "not measured beside uniform bits: the package has more than 1 B"
    monkeypatch.undo()
    monkeypatch.setattr(door, "find_spec", lambda name: None)
    assert "needs torch" in plan_mixed_bits(source, budget).notes[-1]
    monkeypatch.undo()

    def refuse(recipe: Recipe) -> Trial:
        raise EvaluationError("it cannot be run")

    monkeypatch.setattr(door, "measured_with", lambda *_, **__: refuse)
    assert plan_mixed_bits(source, budget).notes[-1].endswith("uniform bits: it cannot be run")


def test_ranks() -> None:
    assert rank_correlation([1.0, 2.0, 9.0], [3.0, 4.0, 5.0]) == pytest.approx(1.0)
    assert rank_correlation([1.0, 2.0, 9.0], [5.0, 4.0, 3.0]) == pytest.approx(-1.0)
    assert rank_correlation([1.0, 2.0], [3.0, 4.0]) is None
    assert rank_correlation([1.0, 2.0, 3.0], [3.0, 2.0, float("nan")]) is None
    assert rank_correlation([1.0, 1.0, 1.0], [3.0, 2.0, 1.0]) is None
    random = np.random.default_rng(0)
    told, measured = random.integers(0, 5, (2, 12)).astype(float)
    from scipy.stats import spearmanr

    assert rank_correlation(told, measured) == pytest.approx(spearmanr(told, measured).statistic)
