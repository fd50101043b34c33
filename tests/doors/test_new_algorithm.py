"""A new algorithm is a file and a line: registered, it goes through every door and the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
import yaml
from door_networks import config, converted, layers
from halves_algorithm import HALVES, entries
from packages import constants

from mil_palettize import (
    ConfigError,
    OpPalettizerConfig,
    PlanError,
    UnsupportedModeError,
    palettize_package,
    palettize_weights,
    pass_pipeline,
)
from mil_palettize.algorithms.distribution import describe
from mil_palettize.algorithms.registry import ALGORITHMS
from mil_palettize.algorithms.source import ArraySource
from mil_palettize.cli.main import main
from mil_palettize.request.entries import load_config

MODES = r"Only modes \('KMEANS', 'UNIFORM', 'UNIQUE', 'CUSTOM'\) are supported for weight palettization. Got .*halves"


@pytest.fixture
def halves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ALGORITHMS, HALVES.name, HALVES)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("new") / "source.mlpackage"
    converted(layers).save(str(path))
    return path


def palettes(package: Path) -> Iterator[np.ndarray]:
    """The two weights, in program order, as an independent reader decodes them."""
    found = [decode() for op, decode in constants(package).values() if op.type == "constexpr_lut_to_dense"]
    assert len(found) == 2
    yield from found


def dense(source: Path) -> list[np.ndarray]:
    return [array for _, decode in constants(source).values() if (array := decode()).ndim == 2]


def expected(weight: np.ndarray, nbits: int) -> np.ndarray:
    table = entries(describe(ArraySource("w", weight)), nbits).astype(np.float16).astype(float)
    return table[np.abs(weight.astype(float)[..., None] - table).argmin(axis=-1)]


@pytest.mark.usefixtures("halves")
def test_it_goes_through_every_door(source: Path, tmp_path: Path) -> None:
    asked, paths = config(mode="Halves", nbits=3), [tmp_path / f"{door}.mlpackage" for door in "abcd"]
    report = palettize_package(source, paths[0], asked, verify=True)
    palettize_weights(ct.models.MLModel(str(source), skip_model_load=True), asked).save(str(paths[1]))
    pipeline = pass_pipeline(asked)
    converted(layers, pass_pipeline=pipeline).save(str(paths[2]))
    arguments = ["palettize", str(source), str(paths[3]), "--mode", "halves", "--nbits", "3"]
    assert main([*arguments, "--weight-threshold", "100", "--quiet"]) == 0
    assert {w.mode for w in report.palettized} == {"halves"}
    weights = dense(source)
    for path in paths:
        for found, weight in zip(palettes(path), weights, strict=True):
            assert np.array_equal(found.astype(float), expected(weight, 3))


@pytest.mark.usefixtures("halves")
def test_groups_precedence_and_yaml(source: Path, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    grouped = {"granularity": "per_grouped_channel", "group_size": 8, "mode": "halves", "nbits": 2}
    entry = {"config_type": "OpPalettizerConfig", "global_config": grouped | {"weight_threshold": 100}}
    file.write_text(yaml.safe_dump(entry))
    palettize_package(source, tmp_path / "out.mlpackage", load_config(file), verify=True)
    for found, weight in zip(palettes(tmp_path / "out.mlpackage"), dense(source), strict=True):
        for first in range(0, len(weight), 8):
            assert np.array_equal(found[first : first + 8].astype(float), expected(weight[first : first + 8], 2))


@pytest.mark.usefixtures("halves")
def test_its_facts_are_checked(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match='"nbits" must be provided for HALVES mode'):
        OpPalettizerConfig(mode="halves")
    with pytest.raises(UnsupportedModeError, match=r"doesn't support HALVES mode\. Use kmeans or unique"):
        palettize_package(source, None, config(mode="halves", cluster_dim=2), dry_run=True)
    given = {"first_weight_to_fp16": np.ones((48, 64))}
    with pytest.raises(PlanError, match="has no effect: mode 'halves' chooses its entries without"):
        palettize_package(source, None, config(mode="halves"), dry_run=True, strict=True, importance=given)
    assert main(["palettize", str(source), "--dry-run", "--mode", "halves"]) == 2
    assert "say how many bits with --nbits N, or give --mode unique or --config" in capsys.readouterr().err


def test_without_registration_it_is_refused_everywhere(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=MODES):
        OpPalettizerConfig(mode="halves", nbits=4)
    file = tmp_path / "config.yaml"
    entries_of_file = {"config_type": "OpPalettizerConfig", "global_config": {"mode": "halves", "nbits": 4}}
    file.write_text(yaml.safe_dump(entries_of_file))
    with pytest.raises(ConfigError, match="mode is 'halves', allowed are"):
        load_config(file)
    with monkeypatch.context() as registered:
        registered.setitem(ALGORITHMS, HALVES.name, HALVES)
        later = config(mode="halves")
    with pytest.raises(ConfigError, match="global_config: mode is 'halves', allowed are"):
        palettize_package(source, None, later, dry_run=True)
    with pytest.raises(SystemExit, match="2"):
        main(["palettize", str(source), "--dry-run", "--mode", "halves", "--nbits", "3"])
    assert "invalid choice: 'halves'" in capsys.readouterr().err


def test_custom_is_not_offered_on_the_command_line(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["palettize", str(source), "--dry-run", "--mode", "custom"])
    assert "invalid choice: 'custom'" in capsys.readouterr().err
