"""Plans where elements of a weight do not all count the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mil_palettize import Budget, ConfigError, Limits, PlanError, palettize_package, plan_mixed_bits
from mil_palettize.budget.distortion import evaluated
from mil_palettize.budget.weighed_choices import Source
from mil_palettize.budget.weighing import weighed
from mil_palettize.encoding.workers import Workers
from mil_palettize.program.model import Model
from mil_palettize.program.site_values import dense

BITS, ONE_TABLE = Budget(bits_per_weight=3.0), Limits(group_size=0)


@pytest.fixture(scope="module")
def source() -> Path:
    return Path(__file__).resolve().parents[2] / "fixtures" / "conv_fp16_ios18.mlpackage"


def values(package: Path, name: str) -> np.ndarray:
    with Model.open(package) as model:
        site = next(site for site in model.survey().sites if site.weight.name == name)
        return np.asarray(dense(site, model.store), np.float64)


def test_the_error_is_that_of_the_package(source: Path, tmp_path: Path) -> None:
    """Of a weight that a linear layer reads: the weighted squared error, relative to the power."""
    name, out = "hidden_weight", tmp_path / "out.mlpackage"
    weight = values(source, name)
    counted = np.random.default_rng(0).exponential(size=weight.shape).astype(np.float32) ** 2 + 0.01
    importance = {name: counted}
    recipe = plan_mixed_bits(source, BITS, limits=ONE_TABLE, importance=importance, measure=False)
    report = palettize_package(source, out, recipe, importance=importance)
    assert report.bytes_after == recipe.nbytes
    chosen = next(one for one in recipe.chosen if one.names == (name,))
    assert chosen.options is not None
    left = np.sum(counted * (values(out, name) - weight) ** 2) / counted.mean()
    assert chosen.error == pytest.approx(left / np.sum(weight**2), rel=1e-3)
    plain = plan_mixed_bits(source, BITS, limits=ONE_TABLE, measure=False)
    others = [one.error for one in plain.chosen if one.names != (name,) and one in recipe.chosen]
    assert others  # of weights that nothing is said of


def test_a_mean_tells_nothing(source: Path) -> None:
    """A weight whose elements all count a thousand times as much is planned as before, with samples or without."""
    with Workers(1) as pool:
        one = weighed(Source(source), ONE_TABLE, BITS, pool).choices[0].choice
    weight = values(source, one.weight.name).astype(np.float16)
    alike, cost = np.full(weight.shape, 1000.0), np.random.default_rng(0).random(weight.shape).astype(np.float32)
    assert evaluated(one, weight, None, alike).errors == pytest.approx(evaluated(one, weight).errors)
    assert evaluated(one, weight, cost, alike).errors == pytest.approx(evaluated(one, weight, cost).errors)
    counted = np.where(np.arange(weight.shape[0]) % 2, 9.0, 1.0)[:, None, None, None] * np.ones(weight.shape)
    both = evaluated(one, weight, (cost * counted / counted.mean()).astype(np.float32))
    assert evaluated(one, weight, cost, counted).errors == pytest.approx(both.errors, rel=1e-4)


def test_what_is_no_importance(source: Path) -> None:
    with pytest.raises(PlanError, match="matches no constant"):
        plan_mixed_bits(source, BITS, importance={"nowhere": np.ones((1, 1), np.float32)})
    with pytest.raises(ConfigError, match="importance must be a mapping"):
        plan_mixed_bits(source, BITS, importance=[1.0])
