"""Pairs of channels that share an index, among what a plan may choose."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from evaluator import mb, program_of, saved

from mil_palettize import Budget, Limits, Recipe, palettize_package, plan_mixed_bits
from mil_palettize.budget.choices import choices_of
from mil_palettize.program.model import Model
from mil_palettize.request.normalised import Requests
from mil_palettize.request.palette_request import palette_request
from mil_palettize.rewriting.palettization import prepare

SHAPE = (32, 64)
PAIRS = {"nbits": 4, "cluster_dim": 2}


def weight_of(pairs: np.ndarray) -> np.ndarray:
    """Whose channels, two by two, hold some of ``pairs`` in each column."""
    random = np.random.default_rng(1)
    picked = random.integers(len(pairs), size=(SHAPE[0] // 2, SHAPE[1]))
    return pairs[picked].transpose(0, 2, 1).reshape(SHAPE).astype(np.float16).astype(np.float32)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``paired`` has 16 pairs of channels and 32 values, ``plain`` is noise."""
    random = np.random.default_rng(0)
    paired = weight_of(random.standard_normal((16, 2)))
    plain = random.standard_normal(SHAPE).astype(np.float32)

    def network(x: object) -> object:
        left = mb.linear(x=x, weight=mb.const(val=paired, name="paired"), bias=np.zeros(SHAPE[0], np.float32))
        right = mb.linear(x=x, weight=mb.const(val=plain, name="plain"), bias=np.zeros(SHAPE[0], np.float32))
        return mb.add(x=left, y=right, name="out")

    return saved(program_of(network, [((1, SHAPE[1]), np.float32)]), tmp_path_factory.mktemp("pairs"))


def plan(source: Path, **limits: object) -> Recipe:
    return plan_mixed_bits(
        source, Budget(bits_per_weight=2.9), limits=Limits(weight_threshold=0, **limits), measure=False
    )


def options(recipe: Recipe) -> dict[str, dict[str, object]]:
    return {name: dict(one.options or {}) for one in recipe.chosen for name in one.names}


def test_they_are_chosen_where_they_are_best(source: Path, tmp_path: Path) -> None:
    """Of 16 pairs 4 bits an index, 2 a weight, keep every value; no table of scalars does at that size."""
    recipe = plan(source, vectors=True)
    found, out = options(recipe)["paired"], tmp_path / "out.mlpackage"
    assert PAIRS.items() <= found.items()
    assert next(one.error for one in recipe.chosen if one.names == ("paired",)) == pytest.approx(0.0, abs=1e-6)
    assert recipe.error < 0.7 * plan(source).error
    report = palettize_package(source, out, recipe)
    (made,) = (weight for weight in report.palettized if weight.name == "paired")
    assert (made.nbits, made.cluster_dim, made.snr_db) == (4, 2, math.inf)
    assert recipe.nbytes == report.bytes_after == sum(f.stat().st_size for f in out.rglob("*") if f.is_file())


def test_they_are_asked_for(source: Path) -> None:
    assert not any("cluster_dim" in of for of in options(plan(source)).values())


@pytest.mark.parametrize(
    ("device", "nbits", "scaled"), [("any", {1, 2, 3, 4, 6}, {False}), ("gpu", {1, 2, 3, 4, 6, 8}, {False, True})]
)
def test_what_there_is_to_choose_from(source: Path, device: str, nbits: set[int], scaled: set[bool]) -> None:
    """Bits of an index of pairs; from half a bit for a weight on, with a scale for each channel where that runs."""
    asked = Requests(palette_request({"nbits": 1, "weight_threshold": 0}), {}, {})
    grid = Limits(weight_threshold=0, vectors=True, device=device).grid()
    with Model.open(source) as model:
        choices = choices_of(prepare(model, asked, target=None, select="weights", strict=False), grid)
    for choice in choices:
        made = [c.specification for c in choice.candidates if c.specification is not None]
        pairs = [s for s in made if s.cluster_dim == 2]
        assert {s.nbits for s in pairs} == nbits
        assert {s.scale_axis is not None for s in pairs} == scaled
