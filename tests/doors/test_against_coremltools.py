"""Our packages against those of coremltools' own ``palettize_weights``: the same ops and records, no larger error."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import Var
from coremltools_palettes import (
    DTYPES,
    LEVELS,
    TARGETS,
    Palettes,
    check_loads,
    compare,
    main_names,
    nbytes,
    network,
    ours,
    theirs,
)
from packages import constants
from slow_cases import slow_where

from mil_palettize import PlanError, Report

GROUPED = {"granularity": "per_grouped_channel", "group_size": 25}
Network = Callable[[str, str, bool], Path]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Network:
    """``built(dtype, target, lattice)``: the path of a network, made once."""
    made: dict[tuple[str, str, bool], Path] = {}

    def get(dtype: str, target: str, lattice: bool = False) -> Path:
        key = dtype, target, lattice
        if key not in made:
            made[key] = tmp_path_factory.mktemp("built") / f"{dtype}_{target}.mlpackage"
            network(*key).save(str(made[key]))
        return made[key]

    return get


# Networks


TAKEN = {
    *("conv", "depthwise", "up", "odd", "product", "transposed"),
    *("first", "added", "table"),
}
# Its consumers want different channel axes: coremltools leaves it alone, even per tensor.
OURS = {"both"}
KMEANS = list(product(DTYPES, (1, 2, 3, 4, 6, 8)))


def repeats(dtype: str, nbits: int) -> bool:
    return nbits in (2, 6) or (dtype, nbits) == ("fp32", 8)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("dtype", "nbits"), slow_where(repeats, KMEANS))
def test_kmeans(dtype: str, target: str, nbits: int, built: Network, tmp_path: Path) -> None:
    source = built(dtype, target)
    if target == "iOS16" and nbits == 3:
        with pytest.raises(PlanError, match=r"nbits=3 is supported since iOS18: pass target=\"iOS18\""):
            ours(source, tmp_path, nbits=3)
        return
    mine, report = ours(source, tmp_path, nbits=nbits)
    both = compare(source, mine, theirs(source, tmp_path, nbits=nbits))
    assert (main_names(both), main_names(mine.found)) == (TAKEN, TAKEN | OURS)
    check_loads(source, mine, report)


@pytest.mark.parametrize(("dtype", "nbits"), slow_where(repeats, KMEANS))
def test_grouped_kmeans(dtype: str, nbits: int, built: Network, tmp_path: Path) -> None:
    check_grouped(built(dtype, "iOS18"), tmp_path, TAKEN, nbits=nbits)


def check_grouped(source: Path, folder: Path, expected: set[str], *, slack: float = 1e-9, **options: object) -> None:
    """``expected``: what both palettize in groups; ours has the weights of ``OURS`` as well, per tensor."""
    options = GROUPED | options
    mine, report = ours(source, folder, **options)
    other = theirs(source, folder, **options)
    both = compare(source, mine, other, slack)
    assert (main_names(both), main_names(mine.found)) == (
        expected,
        expected | (OURS if options.get("mode") != "unique" else set()),
    )
    check_left_dense(source, mine, other, report)
    check_loads(source, mine, report)


def check_left_dense(source: Path, mine: Palettes, other: Palettes, report: Report) -> None:
    """coremltools does not ask whether a palette is smaller than its weight: only those may be missing from ours."""
    dense = {key[1:]: decode for key, (_, decode) in constants(source).items()}
    for key in other.found.keys() - mine.found.keys():
        assert nbytes(other.found[key][0], other.package) >= dense[key]().nbytes, key
        (reason,) = [w.reason for w in report.skipped if w.name == key[2]]
        assert reason.startswith("its palette would take")


@pytest.mark.parametrize("dtype", DTYPES)
def test_palettes_larger_than_their_weights(dtype: str, built: Network, tmp_path: Path) -> None:
    source = built(dtype, "iOS18")
    options = GROUPED | {"group_size": 1, "mode": "uniform", "nbits": 6}
    mine, report = ours(source, tmp_path, **options)
    other = theirs(source, tmp_path, **options)
    compare(source, mine, other, UNIFORM_SLACK[dtype])
    assert main_names(other.found.keys() - mine.found.keys()) >= {"odd", "added"}
    check_left_dense(source, mine, other, report)


# coremltools computes this table in the weight's own precision, which can by luck be the better one.
UNIFORM_SLACK = {"fp16": 2e-3, "fp32": 1e-5}


@pytest.mark.parametrize("nbits", [2, pytest.param(6, marks=pytest.mark.slow), 8])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_uniform(dtype: str, target: str, nbits: int, built: Network, tmp_path: Path) -> None:
    source = built(dtype, target)
    mine, report = ours(source, tmp_path, mode="uniform", nbits=nbits)
    both = compare(source, mine, theirs(source, tmp_path, mode="uniform", nbits=nbits), UNIFORM_SLACK[dtype])
    assert (main_names(both), main_names(mine.found)) == (TAKEN, TAKEN | OURS)
    dense = {key[1:]: decode for key, (_, decode) in constants(source).items()}
    for key, (_, decode) in mine.found.items():
        check_uniform(dense[key]().reshape(-1), decode().reshape(-1), nbits)
    check_loads(source, mine, report)


def check_uniform(weight: np.ndarray, decoded: np.ndarray, nbits: int) -> None:
    """Every element is the nearest of the entries at equal distances, rounded once."""
    values = weight.astype(np.float64)
    table = np.linspace(values.min(), values.max(), 2**nbits).astype(weight.dtype).astype(np.float64)
    distance = np.abs(values[:, None] - table).min(axis=1)
    # linspace adds up in another order: the last bit of an entry may differ.
    last_bit = np.finfo(weight.dtype).eps * np.abs(table).max()
    np.testing.assert_allclose(np.abs(values - decoded.astype(np.float64)), distance, rtol=0, atol=last_bit)


@pytest.mark.parametrize("dtype", DTYPES)
def test_grouped_uniform(dtype: str, built: Network, tmp_path: Path) -> None:
    check_grouped(built(dtype, "iOS18"), tmp_path, TAKEN, slack=UNIFORM_SLACK[dtype], mode="uniform", nbits=4)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_unique(dtype: str, target: str, built: Network, tmp_path: Path) -> None:
    source = built(dtype, target, True)
    mine, report = ours(source, tmp_path, mode="unique")
    both = compare(source, mine, theirs(source, tmp_path, mode="unique"))
    assert main_names(both) == main_names(mine.found) == set(LEVELS)
    assert all(w.lossless for w in report.palettized)
    assert {w.nbits for w in report.palettized} == ({1, 2, 4, 6, 8} if target == "iOS16" else {1, 2, 3, 4, 6, 8})
    reasons = {w.name: w.reason for w in report.skipped}
    for name in ("both_weight", "added_weight"):
        assert "has more than 256 distinct values in one look-up table" in reasons[name]
    check_loads(source, mine, report)


@pytest.mark.parametrize("dtype", DTYPES)
def test_grouped_unique(dtype: str, built: Network, tmp_path: Path) -> None:
    check_grouped(built(dtype, "iOS18", True), tmp_path, set(LEVELS), mode="unique")


def quantiles(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A lut_function that does not look at the order of values."""
    flat = weight.reshape(-1).astype(np.float64)
    lut = np.quantile(flat, np.linspace(0, 1, 16)).astype(weight.dtype)
    nearest = np.abs(flat[:, None] - lut.astype(np.float64)).argmin(axis=1)
    return lut, nearest.astype(np.uint8)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_custom(dtype: str, target: str, built: Network, tmp_path: Path) -> None:
    source = built(dtype, target)
    options = {"mode": "custom", "lut_function": quantiles}
    mine, report = ours(source, tmp_path, **options)
    other = theirs(source, tmp_path, **options)
    both = compare(source, mine, other)
    assert (main_names(both), main_names(mine.found)) == (TAKEN, TAKEN | OURS)
    for key in both:
        np.testing.assert_array_equal(mine.found[key][1](), other.found[key][1]())
    check_loads(source, mine, report)


@pytest.mark.parametrize("dtype", DTYPES)
def test_grouped_custom(dtype: str, built: Network, tmp_path: Path) -> None:
    check_grouped(built(dtype, "iOS18"), tmp_path, TAKEN, mode="custom", lut_function=quantiles)


@pytest.mark.parametrize("dtype", DTYPES)
def test_grouped_needs_ios18_with_both(dtype: str, built: Network, tmp_path: Path) -> None:
    source = built(dtype, "iOS16")
    with pytest.raises(ValueError, match="per_grouped_channel palettization is supported since iOS18"):
        theirs(source, tmp_path, nbits=4, **GROUPED)
    with pytest.raises(PlanError, match="per_grouped_channel palettization is supported since iOS18") as error:
        ours(source, tmp_path, nbits=4, **GROUPED)
    assert 'target="iOS18"' in str(error.value)
    assert not (tmp_path / "ours.mlpackage").exists()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_few_elements_are_stored_in_the_program(dtype: str, target: str, tmp_path: Path) -> None:
    """Both keep arrays of fewer than ten elements, packed indices too, out of the weight file."""

    def body(x: Var) -> Var:
        weight = np.random.default_rng(3).standard_normal((8, 9)).astype(DTYPES[dtype])
        return mb.cast(
            x=mb.linear(x=mb.cast(x=x, dtype=dtype), weight=mb.const(val=weight, name="weight")), dtype="fp32"
        )

    program = mb.program(input_specs=[mb.TensorSpec((1, 9))], opset_version=TARGETS[target])(body)
    model = ct.convert(program, minimum_deployment_target=TARGETS[target], pass_pipeline=ct.PassPipeline.EMPTY)
    source = tmp_path / "few.mlpackage"
    model.save(str(source))
    mine, report = ours(source, tmp_path, nbits=1, weight_threshold=10)
    assert len(compare(source, mine, theirs(source, tmp_path, nbits=1, weight_threshold=10))) == 1
    check_loads(source, mine, report)


# Packages


FIXTURES = [
    "branches_ios16", "const_chains_ios16", "conv_fp16_ios15", "conv_fp16_ios17", "conv_fp16_ios18",
    "conv_fp32_ios16", "embedding_linear_ios16", "embedding_matmul_ios16", "extras_ios16", "flexible_ios16",
    "image_classifier_ios15", "joint_ios18", "palettized_grouped_ios18", "palettized_ios16",
    "quantized_sparse_ios16", "recurrent_fp16_ios17", "recurrent_fp32_ios16", "shared_ios16", "stateful_ios18",
]  # fmt: skip
# Sibling blocks of one name are told apart by coremltools when it loads them.
RENAMED = {("main", "chosen#0", "branch_weight"), ("main", "chosen#1", "branch_weight")}
REAL = {
    "adain_mobilenet_mondrian": 32,
    "basic_pitch_nmp": 4,
    "beatit": 2,
    "dtln_aec_128_part1_fp32": 5,
    "dtln_aec_128_part1_v1": 5,
    "silero_vad_unified": 7,
}


@pytest.mark.parametrize("name", FIXTURES)
def test_fixture(name: str, fixtures: Path, tmp_path: Path) -> None:
    source = fixtures / f"{name}.mlpackage"
    options = {"nbits": 4}
    mine, report = ours(source, tmp_path, **options)
    both = compare(source, mine, theirs(source, tmp_path, **options))
    assert both == mine.found.keys() - RENAMED
    if name != "branches_ios16":  # two weights of one name
        check_loads(source, mine, report)


@pytest.mark.parametrize("name", ["conv_fp16_ios18", "stateful_ios18"])
def test_grouped_fixture(name: str, fixtures: Path, tmp_path: Path) -> None:
    source = fixtures / f"{name}.mlpackage"
    options = {"nbits": 3, "granularity": "per_grouped_channel", "group_size": 8}
    mine, report = ours(source, tmp_path, **options)
    other = theirs(source, tmp_path, **options)
    assert compare(source, mine, other) == other.found.keys()
    check_loads(source, mine, report)


@pytest.mark.parametrize("name", ["loop_ios16", "multifunction_ios18", "odd_values_ios18", "non_weights_ios18"])
def test_what_coremltools_refuses_loads_there(name: str, fixtures: Path, tmp_path: Path) -> None:
    source = fixtures / f"{name}.mlpackage"
    with pytest.raises(ValueError, match=r"cannot be replaced|not supported for a multifunction|NaN|infinity"):
        theirs(source, tmp_path, nbits=4)
    mine, report = ours(source, tmp_path, nbits=4)
    assert report.palettized
    check_loads(source, mine, report)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n.startswith("adain") else n for n in REAL]
)
def test_real_package(name: str, shared_models: Path, tmp_path: Path) -> None:
    source = shared_models / f"{name}.mlpackage"
    mine, report = ours(source, tmp_path, nbits=4)
    both = compare(source, mine, theirs(source, tmp_path, nbits=4))
    assert both == mine.found.keys()
    assert len(both) == REAL[name]
    check_loads(source, mine, report)
