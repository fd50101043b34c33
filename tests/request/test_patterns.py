"""Names of a config that are regular expressions."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pytest

from mil_palettize import OpPalettizerConfig, OptimizationConfig, palettize_package
from mil_palettize.errors import ConfigError, PlanError
from mil_palettize.request.normalised import Requests, normalise
from mil_palettize.request.palette_request import palette_request
from mil_palettize.request.patterns import matches, pattern_of

FOUR, SIX = palette_request({"nbits": 4}), palette_request({"nbits": 6})


def test_what_decides() -> None:
    requests = Requests(None, {}, {"re:.*weight": FOUR, "re:head.*": SIX, "head_weight": None, "re:main/up.*": SIX})
    assert requests.matching("main", "head_weight") == ["head_weight", "re:.*weight", "re:head.*"]
    assert requests.matching("main", "up_weight") == ["re:.*weight", "re:main/up.*"]
    assert requests.matching("other", "up_weight") == ["re:.*weight"]
    assert requests.matching("main", "weights") == []  # the whole name has to match


def test_globs() -> None:
    entries = ["*_proj", "layers.*.fc", "main/layers.1*", "*to_fp16", "*weight"]
    requests = Requests(None, {}, dict.fromkeys(entries, FOUR))
    assert requests.matching("main", "layers_0_fc_weight_to_fp16") == ["layers.*.fc", "*to_fp16", "*weight"]
    assert requests.matching("main", "layers_1_q_proj_bias") == ["*_proj", "main/layers.1*"]
    assert requests.matching("other", "layers_1_fc") == ["layers.*.fc"]
    assert requests.matching("main", "weights") == []


def test_written_out_names_of_readers_win_over_patterns(fixtures: Path) -> None:
    config = OptimizationConfig(op_name_configs={"*": OpPalettizerConfig(nbits=4), "head": OpPalettizerConfig(nbits=6)})
    report = palettize_package(fixtures / "conv_fp16_ios18.mlpackage", None, config, dry_run=True)
    assert {w.name: w.nbits for w in report.palettized if w.nbits != 4} == {"head_weight": 6}


def test_globs_take_what_any_way_of_reading_them_takes() -> None:
    """Beside plain ``.*``; of long names too, where that would take years."""
    for stars in product(("", "*", "a", "b", "ab"), repeat=4):
        glob = "*".join(stars)
        wanted = re.compile(".*".join(map(re.escape, re.split(r"\*+", glob))))
        for length in range(6):
            for name in map("".join, product("ab", repeat=length)):
                assert bool(pattern_of(glob).fullmatch(name)) == bool(wanted.fullmatch(name)), (glob, name)
    assert not matches("*a*a*a*a*a*b", ["a" * 2000])


def test_too_many_stars() -> None:
    with pytest.raises(ConfigError, match="has more than 6 of \\*"):
        Requests(None, {}, {"*a*a*a*a*a*a*": FOUR})


def test_of_a_package(fixtures: Path, tmp_path: Path) -> None:
    config = OptimizationConfig(
        global_config=OpPalettizerConfig(nbits=4),
        op_name_configs={"re:(head|hidden)_.*": OpPalettizerConfig(nbits=6), "head_weight": None},
    )
    report = palettize_package(fixtures / "conv_fp16_ios18.mlpackage", tmp_path / "out.mlpackage", config, strict=True)
    assert {w.name: w.nbits for w in report.palettized} == {
        "stem_weight": 4, "depthwise_weight": 4, "up_weight": 4, "hidden_weight": 6,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "near"),
    [("re:nowhere.*", "names are like 'depthwise_weight'"), ("*hiden*", "there are 'hidden_weight'")],
)
def test_one_that_matches_nothing_is_an_error(fixtures: Path, pattern: str, near: str) -> None:
    config = OptimizationConfig(OpPalettizerConfig(nbits=4), op_name_configs={pattern: OpPalettizerConfig(nbits=6)})
    with pytest.raises(PlanError, match=re.escape(f"[{pattern!r}] matches nothing in function main; {near}")):
        palettize_package(fixtures / "conv_fp16_ios18.mlpackage", None, config, dry_run=True)


def test_one_that_is_none() -> None:
    config = OptimizationConfig(op_name_configs={"re:[": OpPalettizerConfig(nbits=6)})
    with pytest.raises(ConfigError, match=r"op_name_configs\['re:\['\] is no regular expression"):
        normalise(config)
