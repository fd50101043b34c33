"""Why a plan leaves weights alone: each has a reason of its own, in the recipe and in the report of its package."""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path

import pytest

from mil_palettize import Budget, Limits, Recipe, palettize_package
from mil_palettize import plan_mixed_bits as plan_measured
from mil_palettize.budget.uniform_plans import uniform_plans
from mil_palettize.budget.weighed_choices import Source
from mil_palettize.budget.weighing import weighed
from mil_palettize.encoding.workers import Workers
from mil_palettize.errors import PlanError

plan_mixed_bits = partial(plan_measured, measure=False)
MUCH = Budget(bits_per_weight=15.5)


@pytest.fixture
def source(fixtures: Path) -> Path:
    return fixtures / "conv_fp16_ios18.mlpackage"


def reasons(recipe: Recipe) -> dict[str, str]:
    return {name: one.reason for one in recipe.chosen for name in one.names}


def test_the_budget_holds_it(source: Path, tmp_path: Path) -> None:
    """The palette that is named is the best that there is, with the bytes that it saves and what it loses."""
    recipe = plan_mixed_bits(source, Budget(bits_per_weight=11))
    dense = [one for one in recipe.chosen if one.options is None]
    assert dense
    assert all((one.options is None) == bool(one.reason) for one in recipe.chosen)
    for one in dense:
        told = re.fullmatch(
            r"there is room for it as it is; 8 bits.*, its best palette, would save ([\d,]+) bytes, with ([\d.]+) dB "
            r"told beforehand",
            one.reason,
        )
        assert told is not None
        alone = Limits(keep={other: None for chosen in recipe.chosen for other in chosen.names if chosen is not one})
        with_it = plan_mixed_bits(source, recipe.bytes_before - 1, limits=alone)
        (palette,) = (chosen for chosen in with_it.chosen if chosen.options is not None)
        assert palette.names == one.names
        assert f"{-10 * math.log10(palette.error):.1f}" == told[2]
        saved = int(told[1].replace(",", ""))
        assert recipe.bytes_before - with_it.nbytes == pytest.approx(saved, abs=16)  # lengths are stored too
    shown = recipe.to_text(200)
    assert "left alone:\n" in shown
    assert "its best palette, would save" in recipe.to_yaml()
    assert "its best palette, would save" in recipe.to_html()
    report = palettize_package(source, tmp_path / "out.mlpackage", recipe)
    assert {w.name: w.reason for w in report.skipped} == {
        one.names[0]: f"left alone by the plan: {one.reason}" for one in dense
    }


def test_what_was_asked_for(source: Path) -> None:
    kept = Limits(keep={"hidden_weight": None, "re:up.*": 8}, ends=None)
    told = reasons(plan_mixed_bits(source, MUCH, limits=kept))
    assert told["hidden_weight"] == "keep['hidden_weight'] asks for it"
    assert told["stem_weight"] == told["head_weight"] == "ends asks for it"
    assert told["up_weight"] == "" or told["up_weight"].startswith("there is room for it")


def test_what_its_form_rules_out(fixtures: Path) -> None:
    """Groups are none of iOS16; no group of 32 divides these channels."""
    older = fixtures / "conv_fp16_ios16.mlpackage"
    told = reasons(plan_mixed_bits(older, Budget(nbytes=50_000), limits=Limits(group_size=8)))
    assert all("per_grouped_channel palettization is supported since iOS18" in reason for reason in told.values())
    told = reasons(plan_mixed_bits(fixtures / "conv_fp16_ios18.mlpackage", MUCH, limits=Limits(group_size=32)))
    assert told["head_weight"] == (
        "group_size 32 does not divide the 10 channels of axis 0 and no divisor lies in 16 to 64: one palette "
        "per tensor, which no plan takes"
    )
    with pytest.raises(PlanError, match=r"'main/stem_weight' \(6\.91 kB: group_size 32 does not divide the 24 "):
        plan_mixed_bits(fixtures / "conv_fp16_ios18.mlpackage", 1000, limits=Limits(group_size=32))
    with pytest.raises(PlanError, match=r"'main/head_weight' and 2 more \(35\.4 kB: The per_grouped_channel"):
        plan_mixed_bits(older, 1000, limits=Limits(group_size=8))


def test_what_its_values_rule_out(fixtures: Path) -> None:
    told = reasons(plan_mixed_bits(fixtures / "odd_values_ios18.mlpackage", MUCH, limits=Limits(weight_threshold=64)))
    assert told["nan_weight"] == "it holds NaN or infinities"


def test_more_bits_than_it_can_have(source: Path) -> None:
    told = reasons(plan_mixed_bits(source, MUCH, limits=Limits(keep={"stem_weight": 8}, group_size=1)))
    assert told["stem_weight"] == "keep['stem_weight'] asks for 8 bits or more, and it can have none of so many"


def test_uniform_bits_that_it_cannot_have(source: Path) -> None:
    with Workers(1) as pool:
        found = weighed(Source(source), Limits(), None, pool)
    _, recipe = uniform_plans(found, Budget(nbytes=24_000), "any")
    assert recipe.uniform == "2 bits, groups of 4"
    assert reasons(recipe)["head_weight"] == "it can have no 2 bits, groups of 4"  # it has 10 channels


def test_constants_that_no_plan_takes(fixtures: Path, tmp_path: Path) -> None:
    """Their reasons stand in the report, and once."""
    source = fixtures / "non_weights_ios18.mlpackage"
    recipe = plan_mixed_bits(source, Budget(bits_per_weight=8), limits=Limits(weight_threshold=64))
    report = palettize_package(source, tmp_path / "out.mlpackage", recipe)
    told = {w.name: w.reason for w in report.skipped}
    assert told["positions"].startswith("does not act as a weight (read by add 'y')")
    assert told["wide_bias"].startswith("rank 1; ")
    assert told["output_const"].startswith("is an output of its block")
    assert told | {key.rpartition("/")[2]: reason for key, reason, _ in recipe.left} == told
    assert report.to_text(300).count("rank 1; ") == 1
    assert recipe.to_text(300).count("rank 1; ") == recipe.to_yaml().count("rank 1; ") == 1
