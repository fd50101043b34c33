"""Recipes that come with the package: coremltools reads them as we do, and they are what the guide shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from coremltools.optimize.coreml import OptimizationConfig

from mil_palettize import ConfigError, palettize_package, recipe_path
from mil_palettize.request.entries import load_config
from mil_palettize.request.normalised import normalise
from mil_palettize.request.recipes import recipe_names

NAMES = recipe_names()
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")


def test_there_are_recipes_for_kinds_of_models() -> None:
    assert NAMES == ("detector", "diffusion-unet", "llm", "speech", "transformer", "vision-cnn")


@pytest.mark.parametrize("name", NAMES)
def test_coremltools_reads_the_same(name: str) -> None:
    theirs = OptimizationConfig.from_yaml(str(recipe_path(name)))
    assert normalise(theirs, False, None) == load_config(recipe_path(name))
    assert not load_config(recipe_path(name)).without_effect


@pytest.mark.parametrize("name", NAMES)
def test_what_was_measured_is_said(name: str) -> None:
    comments = " ".join(re.findall(r"^# ?(.*)$", recipe_path(name).read_text(), re.M))
    assert ("Not measured" in comments) != ("Measured (" in comments)


@pytest.mark.parametrize("name", NAMES)
def test_the_guide_shows_the_file(name: str) -> None:
    shown = PAGE.partition(f"`--recipe {name}`")[2].partition("```yaml\n")[2].partition("```")[0]
    assert shown == recipe_path(name).read_text()


def test_groups_and_looked_up_tables_of_language_models(fixtures: Path, tmp_path: Path) -> None:
    source = fixtures / "embedding_linear_ios16.mlpackage"
    report = palettize_package(source, tmp_path / "out.mlpackage", load_config(recipe_path("llm")), target="iOS18")
    looked_up = {w.name: w for w in report.palettized if ("gather", "x") in w.consumers}
    others = [w for w in report.palettized if w.name not in looked_up]
    assert [w.nbits for w in looked_up.values()] == [8]
    assert all((w.nbits, w.group_size) == (4, 32) for w in others)


def test_an_unknown_name_is_told_with_near_ones() -> None:
    with pytest.raises(ConfigError, match=r"recipe is 'vision'; there are detector, .*; did you mean 'vision-cnn'\?"):
        recipe_path("vision")
    with pytest.raises(ConfigError, match="recipe is None; there are detector"):
        recipe_path(None)
