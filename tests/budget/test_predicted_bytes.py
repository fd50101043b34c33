"""The bytes that a plan names are those of the package that it makes."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from mil_palettize import Budget, Limits, Recipe, palettize_package
from mil_palettize import plan_mixed_bits as plan_measured
from mil_palettize.budget.choices import choices_of
from mil_palettize.budget.limits import GROUP_SIZES
from mil_palettize.errors import PlanError
from mil_palettize.program.model import Model
from mil_palettize.request.normalised import Requests
from mil_palettize.request.palette_request import palette_request
from mil_palettize.rewriting.palettization import prepare
from mil_palettize.rewriting.predicted_size import predicted_nbytes

# By what is predicted, which all of these are of.
plan_mixed_bits = partial(plan_measured, measure=False)
ROOT = Path(__file__).resolve().parents[2]
FIXTURES = sorted(path.stem for path in (ROOT / "fixtures").glob("*.mlpackage"))
ODD = ["shared_ios16", "multifunction_ios18", "embedding_linear_ios16", "quantized_sparse_ios16", "conv_fp32_ios18"]
THRESHOLD = 64


def nbytes(package: Path) -> int:
    return sum(file.stat().st_size for file in package.rglob("*") if file.is_file())


def halfway(source: Path, limits: Limits) -> Recipe:
    """A plan of a size between the smallest and the package as it is."""
    with pytest.raises(PlanError, match="cannot be reached: the smallest package is") as refused:
        plan_mixed_bits(source, 1, limits=limits)
    smallest = int(str(refused.value).partition("smallest package is ")[2].split(";")[0].split(":")[0].replace(",", ""))
    recipe = plan_mixed_bits(source, (2 * smallest + nbytes(source)) // 3, limits=limits)
    assert recipe.smallest == smallest or "odd_values" in source.name  # of which some turn out to hold NaN
    return recipe


@pytest.mark.parametrize("name", FIXTURES)
def test_of_a_plan(fixtures: Path, tmp_path: Path, name: str) -> None:
    source, out = fixtures / f"{name}.mlpackage", tmp_path / "out.mlpackage"
    recipe = halfway(source, Limits(weight_threshold=THRESHOLD))
    report = palettize_package(source, out, recipe)
    assert recipe.nbytes == nbytes(out) == report.bytes_after
    assert len(report.palettized) >= sum(one.options is not None for one in recipe.chosen)


VECTORS = {"nbits": 2, "cluster_dim": 2, "enable_per_channel_scale": True}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("conv_fp32_ios16", {"nbits": 1}),
        ("shared_ios16", {"nbits": 4}),
        ("conv_fp16_ios18", {"nbits": 3, "group_size": 4}),
        pytest.param("multifunction_ios18", VECTORS, marks=pytest.mark.slow),  # pairs are clustered slowly
    ],
)
def test_of_uniform_palettes(fixtures: Path, tmp_path: Path, name: str, options: dict[str, object]) -> None:
    source, out = fixtures / f"{name}.mlpackage", tmp_path / "out.mlpackage"
    asked = Requests(palette_request({**options, "weight_threshold": THRESHOLD}), {}, {})
    with Model.open(source) as model:
        predicted = predicted_nbytes(prepare(model, asked, target=None, select="weights", strict=False))
    palettize_package(source, out, asked)
    assert predicted == nbytes(out)


def test_a_table_of_few_entries_stands_in_the_program(fixtures: Path) -> None:
    """At 3 bits a table per tensor has fewer than 10 entries, at 4 bits it is a record of its own."""
    source = fixtures / "conv_fp16_ios18.mlpackage"
    limits = Limits(weight_threshold=THRESHOLD, group_size=0)
    with Model.open(source) as model:
        asked = Requests(palette_request({"nbits": 1, "weight_threshold": THRESHOLD}), {}, {})
        prepared = prepare(model, asked, target=None, select="weights", strict=False)
        choice = max(choices_of(prepared, limits.grid()), key=lambda one: one.weight.size)
    at = {c.request.nbits: c for c in choice.candidates if c.request is not None}
    grown, stored = at[4].nbytes - at[3].nbytes, at[4].stored_nbytes - at[3].stored_nbytes
    assert stored == choice.weight.size // 8 + 16
    assert grown > stored + 64  # the metadata of the record


@pytest.mark.parametrize("name", ["conv_fp16_ios18", "multifunction_ios18", "shared_ios16", "stateful_ios18"])
def test_sums_are_near_the_exact_size(fixtures: Path, name: str) -> None:
    source = fixtures / f"{name}.mlpackage"
    asked = Requests(palette_request({"nbits": 1, "weight_threshold": THRESHOLD}), {}, {})

    def exact(requests: Requests) -> int:
        with Model.open(source) as model:
            return predicted_nbytes(prepare(model, requests, target=None, select="weights", strict=False))

    with Model.open(source) as model:
        prepared = prepare(model, asked, target=None, select="weights", strict=False)
        choices = choices_of(prepared, Limits(weight_threshold=THRESHOLD, vectors=True, device="gpu").grid())
    random, base = np.random.default_rng(0), exact(Requests(None, {}, {}))
    for _ in range(6):
        picked = [choice.candidates[random.integers(len(choice.candidates))] for choice in choices]
        entries = {n: c.request for choice, c in zip(choices, picked, strict=True) for n in choice.names}
        assert abs(base + sum(c.nbytes for c in picked) - exact(Requests(None, {}, entries))) < 40 + 8 * len(choices)


@pytest.mark.parametrize("name", ODD)
def test_of_whatever_may_be_chosen(fixtures: Path, tmp_path: Path, name: str) -> None:
    """Not only of good plans: of any candidates beside each other, also where weights share data or functions, or stand
    beside compressed ones."""
    source, random = fixtures / f"{name}.mlpackage", np.random.default_rng(0)
    asked = Requests(palette_request({"nbits": 1, "weight_threshold": THRESHOLD}), {}, {})
    grid = Limits(weight_threshold=THRESHOLD, vectors=True, device="gpu").grid()
    with Model.open(source) as model:
        choices = choices_of(prepare(model, asked, target=None, select="weights", strict=False), grid)
    for number in range(3):
        picked = [choice.candidates[random.integers(len(choice.candidates))] for choice in choices]
        entries = {n: c.request for choice, c in zip(choices, picked, strict=True) for n in choice.names}
        requests = Requests(None, {}, entries)
        with Model.open(source) as model:
            predicted = predicted_nbytes(prepare(model, requests, target=None, select="weights", strict=False))
        palettize_package(source, tmp_path / f"{number}.mlpackage", requests)
        assert predicted == nbytes(tmp_path / f"{number}.mlpackage")


def test_every_kind_of_group_is_tried(fixtures: Path) -> None:
    asked = Requests(palette_request({"nbits": 1, "weight_threshold": 0}), {}, {})
    with Model.open(fixtures / "conv_fp16_ios18.mlpackage") as model:
        prepared = prepare(model, asked, target=None, select="weights", strict=False)
        choices = choices_of(prepared, Limits(weight_threshold=0).grid())
    made = [c.specification for choice in choices for c in choice.candidates if c.specification is not None]
    assert {s.group_size for s in made} == {None, *GROUP_SIZES}
    assert {s.nbits for s in made} == {1, 2, 3, 4, 6, 8}
    for choice, size in itertools.product(choices, GROUP_SIZES):
        own = [c.specification for c in choice.candidates if c.specification and c.specification.group_size == size]
        assert all(choice.weight.shape[s.axis] % size == 0 for s in own)


def test_bits_per_weight_are_met(fixtures: Path, tmp_path: Path) -> None:
    source, out = fixtures / "conv_fp16_ios18.mlpackage", tmp_path / "out.mlpackage"
    recipe = plan_mixed_bits(source, Budget(bits_per_weight=3.2))
    report = palettize_package(source, out, recipe)
    stored = sum(w.bytes_after for w in report.palettized)
    elements = sum(int(np.prod(w.shape)) for w in report.palettized)
    assert stored * 8 / elements <= 3.2
    assert recipe.bits_per_weight == pytest.approx(stored * 8 / elements)
    assert recipe.nbytes == nbytes(out)


def test_a_move_is_part_of_it(fixtures: Path, tmp_path: Path) -> None:
    source, out = fixtures / "conv_fp16_ios15.mlpackage", tmp_path / "out.mlpackage"
    recipe = plan_mixed_bits(source, Budget(bits_per_weight=2.5), target="iOS18")
    assert any("group_size" in (one.options or {}) for one in recipe.chosen)
    palettize_package(source, out, recipe, target="iOS18")
    assert recipe.nbytes == nbytes(out)
