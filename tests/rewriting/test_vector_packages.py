"""Palettes of vectors in packages: held against coremltools' own, and what is not made of vectors."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from coremltools_palettes import (
    DTYPES,
    Palettes,
    check_loads,
    described,
    main_names,
    network,
    ours,
    squared_error,
    theirs,
)
from packages import constants
from slow_cases import slow_where

from mil_palettize import OpPalettizerConfig, OptimizationConfig, PlanError, decompress_package, palettize_package
from mil_palettize.program.weight import Consumer

# What can be split into vectors of 2 along its channel axis; of 4, only the table.
EVEN = {"conv", "product", "first", "added", "table"}
DIMS = {2: EVEN, 4: {"table"}}
NEEDS = r'The vector palettization is supported since iOS18\. Please re-convert .* Or pass target="iOS18"'


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for dtype in DTYPES:
        found[dtype] = tmp_path_factory.mktemp("vectors") / f"{dtype}.mlpackage"
        network(dtype, "iOS18", False).save(str(found[dtype]))
    return found


def errors(source: Path, mine: Palettes, other: Palettes) -> dict[str, float]:
    """Our squared error over theirs by weight, where the ops are of the same form and parts."""
    dense = {key[1:]: decode for key, (_, decode) in constants(source).items()}
    found = {}
    for key in mine.found.keys() & other.found.keys():
        (op, decode), (their_op, their_decode) = mine.found[key], other.found[key]
        assert described(op, mine.package) == described(their_op, other.package), key
        weight = dense[key]()
        found[key[2].removesuffix("_weight")] = squared_error(weight, decode()) / squared_error(weight, their_decode())
    return found


@pytest.mark.parametrize(
    ("dim", "dtype"), slow_where(lambda dim, dtype: (dim, dtype) == (2, "fp32"), product(DIMS, DTYPES))
)
@pytest.mark.parametrize("groups", [{}, {"granularity": "per_grouped_channel", "group_size": 10}])
def test_same_form_and_no_larger_error(
    dtype: str, dim: int, groups: dict[str, object], sources: dict[str, Path], tmp_path: Path
) -> None:
    options = {"nbits": 4, "cluster_dim": dim, **groups}
    mine, report = ours(sources[dtype], tmp_path, **options)
    vectors = {w.name.removesuffix("_weight"): w for w in report.palettized if w.cluster_dim == dim}
    if not groups:
        assert vectors.keys() == DIMS[dim]
    elif dim == 2:
        assert {"conv", "table"} <= vectors.keys()
    ratios = errors(sources[dtype], mine, theirs(sources[dtype], tmp_path, **options))
    assert ratios.keys() >= (vectors.keys() if not groups else set())
    assert all(ratio <= 1.01 for ratio in ratios.values()), ratios
    for weight in report.palettized:
        if weight.cluster_dim == 1:
            assert any("a palette of scalars instead" in note for note in weight.notes)
        else:
            assert not any("vectors" in note for note in weight.notes)
    check_loads(sources[dtype], mine, report)


@pytest.mark.parametrize("dtype", DTYPES)
def test_verified_diffed_and_decompressed(dtype: str, sources: dict[str, Path], tmp_path: Path) -> None:
    config = OptimizationConfig(OpPalettizerConfig(nbits=6, cluster_dim=2))
    report = palettize_package(sources[dtype], tmp_path / "v.mlpackage", config, verify=True, select="all")
    assert report.verified
    (table,) = [w for w in report.palettized if w.name == "table_weight"]
    assert (table.channel_axis, table.group_size, table.cluster_dim) == (0, None, 2)
    assert table.bytes_after == 100 * 25 // 2 * 6 / 8 + 64 * 2 * np.dtype(DTYPES[dtype]).itemsize + 0.5
    assert "v2 axis 0" in report.to_text()
    planned = palettize_package(sources[dtype], None, config, select="all", dry_run=True)
    assert [w.bytes_after for w in planned.palettized] == [w.bytes_after for w in report.palettized]
    decompress_package(tmp_path / "v.mlpackage", tmp_path / "d.mlpackage", verify=True)
    dense, original = constants(tmp_path / "d.mlpackage"), constants(sources[dtype])
    for key, (_, decode) in constants(tmp_path / "v.mlpackage").items():
        if decode().dtype.kind == "f":
            assert dense[key][1]().tobytes() == decode().tobytes()
        assert dense[key][1]().shape == original[key][1]().shape


def test_refused_before_ios18_and_under_strict(sources: dict[str, Path], tmp_path: Path) -> None:
    network("fp16", "iOS16", False).save(str(tmp_path / "old.mlpackage"))
    config = OptimizationConfig(OpPalettizerConfig(nbits=4, cluster_dim=2))
    with pytest.raises(PlanError, match=NEEDS):
        palettize_package(tmp_path / "old.mlpackage", tmp_path / "out.mlpackage", config)
    with pytest.raises(PlanError, match=r"strict: .* cluster_dim 2 does not divide"):
        palettize_package(sources["fp16"], tmp_path / "out.mlpackage", config, strict=True)
    assert not (tmp_path / "out.mlpackage").exists()
    moved = palettize_package(
        tmp_path / "old.mlpackage", tmp_path / "out.mlpackage", config, target="iOS18", verify=True
    )
    assert moved.verified
    assert {w.name for w in moved.palettized if w.cluster_dim == 2} >= {"conv_weight", "table_weight"}


def test_scales_of_vectors_are_written_and_not_folded(sources: dict[str, Path], tmp_path: Path) -> None:
    scaled = {"nbits": 4, "cluster_dim": 2, "enable_per_channel_scale": True}
    config = OptimizationConfig(OpPalettizerConfig(**scaled))
    report = palettize_package(sources["fp16"], tmp_path / "op.mlpackage", config, verify=True)
    made = [w for w in report.palettized if w.cluster_dim == 2]
    assert made
    assert all(w.scale_axis is not None for w in made)
    fold = OptimizationConfig(OpPalettizerConfig(**scaled, scale="fold"))
    folded = palettize_package(sources["fp16"], tmp_path / "fold.mlpackage", fold, verify=True)
    assert {w.cluster_dim for w in folded.palettized} == {1}
    why = "no vectors of 2: scale='fold' writes a table for each channel, and a vector lies across 2"
    assert all(any(why in note for note in w.notes) for w in folded.palettized)
    with pytest.raises(PlanError, match=r"strict: .*no vectors of 2: scale='fold'"):
        palettize_package(sources["fp16"], tmp_path / "strict.mlpackage", fold, strict=True)


def test_a_function_that_makes_vectors_gets_no_scalars(sources: dict[str, Path], tmp_path: Path) -> None:
    def first_vectors(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert weight.shape[0] % 2 == 0
        return np.zeros((4, 2), weight.dtype), np.zeros(weight.size // 2, np.uint8)

    config = OptimizationConfig(OpPalettizerConfig(mode="custom", lut_function=first_vectors, cluster_dim=2))
    report = palettize_package(sources["fp16"], tmp_path / "out.mlpackage", config, verify=True)
    assert {w.cluster_dim for w in report.palettized} == {2}
    reasons = {w.name: w.reason for w in report.skipped}
    assert reasons["depthwise_weight"] == (
        "cluster_dim 2 does not divide the 1 channels of a group of conv 'weight' of 'depthwise'"
    )
    assert main_names((0, 0, name) for name in reasons) >= {"up", "odd", "transposed", "depthwise"}


@pytest.mark.parametrize(
    ("consumer", "axis", "channels"),
    [
        (Consumer("conv", "c", "weight", 0, groups=4), 0, 2),
        (Consumer("conv", "c", "weight", 0, groups=4), 1, 8),
        (Consumer("conv", "c", "weight", None, (("reshape", "r"),), groups=4), 1, 2),
        (Consumer("conv_transpose", "c", "weight", 1, groups=4), 0, 2),
        (Consumer("conv_transpose", "c", "weight", 1, groups=4), 1, 8),
        (Consumer("linear", "l", "weight", 0), 0, 8),
    ],
)
def test_channels_of_a_group(consumer: Consumer, axis: int, channels: int) -> None:
    assert consumer.channels_of_group(axis, 8) == channels


def test_more_bits_per_element_win(sources: dict[str, Path]) -> None:
    """Two ops read the same weight: four bits for two elements are fewer than three for one."""
    named = {"both_linear": OpPalettizerConfig(nbits=4, cluster_dim=2), "both_product": OpPalettizerConfig(nbits=3)}
    config = OptimizationConfig(op_name_configs=named)
    report = palettize_package(sources["fp16"], None, config, dry_run=True)
    (both,) = report.palettized
    assert (both.nbits, both.cluster_dim) == (3, 1)
    assert "4 bits by vectors of 2" in both.notes[0]
