"""Names of a config that are regular expressions."""

from __future__ import annotations

from pathlib import Path

import pytest

from mil_palettize import OpPalettizerConfig, OptimizationConfig, palettize_package
from mil_palettize.errors import ConfigError, PlanError
from mil_palettize.request.normalised import Requests, normalise
from mil_palettize.request.palette_request import palette_request

FOUR, SIX = palette_request({"nbits": 4}), palette_request({"nbits": 6})


def test_what_decides() -> None:
    requests = Requests(None, {}, {"re:.*weight": FOUR, "re:head.*": SIX, "head_weight": None, "re:main/up.*": SIX})
    assert requests.matching("main", "head_weight") == ["head_weight", "re:.*weight", "re:head.*"]
    assert requests.matching("main", "up_weight") == ["re:.*weight", "re:main/up.*"]
    assert requests.matching("other", "up_weight") == ["re:.*weight"]
    assert requests.matching("main", "weights") == []  # the whole name has to match


def test_of_a_package(fixtures: Path, tmp_path: Path) -> None:
    config = OptimizationConfig(
        global_config=OpPalettizerConfig(nbits=4),
        op_name_configs={"re:(head|hidden)_.*": OpPalettizerConfig(nbits=6), "head_weight": None},
    )
    report = palettize_package(fixtures / "conv_fp16_ios18.mlpackage", tmp_path / "out.mlpackage", config, strict=True)
    assert {w.name: w.nbits for w in report.palettized} == {
        "stem_weight": 4, "depthwise_weight": 4, "up_weight": 4, "hidden_weight": 6,
    }  # fmt: skip


def test_one_that_matches_nothing_is_told(fixtures: Path) -> None:
    config = OptimizationConfig(
        global_config=OpPalettizerConfig(nbits=4), op_name_configs={"re:nowhere.*": OpPalettizerConfig(nbits=6)}
    )
    source = fixtures / "conv_fp16_ios18.mlpackage"
    assert any("re:nowhere" in note for note in palettize_package(source, None, config, dry_run=True).notes)
    with pytest.raises(PlanError, match="re:nowhere"):
        palettize_package(source, None, config, dry_run=True, strict=True)


def test_one_that_is_none() -> None:
    config = OptimizationConfig(op_name_configs={"re:[": OpPalettizerConfig(nbits=6)})
    with pytest.raises(ConfigError, match=r"op_name_configs\['re:\['\] is no regular expression"):
        normalise(config)
