"""Palettes with importance: the weighted optimum by brute force, and reported errors by an independent decoder."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from door_networks import config, converted, layers
from form_packages import WRITTEN
from mil_messages import const, op, program, write_package
from packages import constants

from mil_palettize import PlanError, Report, palettize_package
from mil_palettize.errors import ConfigError


def spread(importance: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.kron(importance, np.ones([size // n for size, n in zip(shape, importance.shape, strict=True)]))


def decoded(package: Path) -> dict[str, np.ndarray]:
    """What every weight stands for, by an independent reader."""
    arrays = {key[-1]: np.asarray(decode()) for key, (_, decode) in constants(package).items()}
    return {name: array.astype(float) for name, array in arrays.items() if array.ndim > 1 and array.dtype.kind == "f"}


def least_error(values: np.ndarray, masses: np.ndarray) -> float:
    """Of two entries anywhere: every cut of the sorted values is tried."""
    order = np.argsort(values)
    values, masses = values[order], masses[order]
    errors = []
    for cut in range(len(values) + 1):
        parts = [(values[:cut], masses[:cut]), (values[cut:], masses[cut:])]
        means = [np.average(v, weights=m) if len(v) else 0.0 for v, m in parts]
        errors.append(sum(float(m @ (v - mean) ** 2) for (v, m), mean in zip(parts, means, strict=True)))
    return min(errors)


def test_the_optimum_by_brute_force(tmp_path: Path) -> None:
    """One bit for two groups of a float32 weight; rounding the tables costs next to nothing."""
    draw = np.random.default_rng(3)
    weight = draw.standard_normal((8, 48)).astype(np.float32)
    importance = np.exp(draw.standard_normal((8, 48)) * 2)
    source = write_package(
        tmp_path / "source.mlpackage",
        program(const("w", weight), op("linear", "l", {"x": "x", "weight": "w"}), outputs=["l"]),
    )
    options = {"nbits": 1, "granularity": "per_grouped_channel", "group_size": 4}
    written = tmp_path / "out.mlpackage"
    report = palettize_package(source, written, config(**options), verify=True, importance={"main/w": importance})
    (stored,) = (decode() for one, decode in constants(written).values() if one.type == "constexpr_lut_to_dense")
    error = (weight.astype(float) - stored) ** 2
    least = sum(least_error(weight[g : g + 4].ravel().astype(float), importance[g : g + 4].ravel()) for g in (0, 4))
    assert float((importance * error).sum()) == pytest.approx(least, rel=1e-9)
    (told,) = report.palettized
    assert told.weighted_error == pytest.approx(least, rel=1e-9)
    assert told.squared_error == pytest.approx(float(error.sum()), rel=1e-12)
    plain = palettize_package(source, tmp_path / "plain.mlpackage", config(**options)).palettized[0]
    assert plain.weighted_error is None
    assert plain.squared_error < told.squared_error


FORMS = ["packed", "packed unique", "typed fp32", "grouped", "scaled", "uint8 tables", "sparse groups", "vectors"]
FORMS += [
    "vectors, scaled",
    "vectors in groups, scaled, int8",
    "sparse vectors",
    "tables scaled",
    "tables scaled by block",
    "data scaled with offset",
]


@pytest.mark.parametrize("name", FORMS)
def test_reported_errors_are_those_of_what_is_stored(name: str, tmp_path: Path) -> None:
    form = WRITTEN[name]
    before = decoded(form.source())
    names = [w.name for w in form.palettize(None, dry_run=True).palettized]
    draw = np.random.default_rng(4)
    given = {key: draw.uniform(0.1, 9, (*before[key].shape[:1], *[1] * (before[key].ndim - 1))) for key in names}
    report = form.palettize(tmp_path / "out.mlpackage", verify=True, importance=given)
    after = decoded(tmp_path / "out.mlpackage")
    assert {w.name for w in report.palettized} == set(names) != set()
    for told in report.palettized:
        squares = (before[told.name] - after[told.name]) ** 2
        weighted = float((spread(given[told.name], squares.shape) * squares).sum())
        assert told.squared_error == pytest.approx(float(squares.sum()), rel=1e-9)
        assert told.weighted_error == pytest.approx(weighted, rel=1e-9)
        signal = float((before[told.name] ** 2).sum())
        if told.squared_error:
            assert told.snr_db == pytest.approx(10 * math.log10(signal / squares.sum()), abs=1e-9)


WEIGHED = ["typed", "grouped", "scaled", "sparse", "tables scaled by channel", "vectors", "vectors, scaled"]


@pytest.mark.parametrize("name", [*WEIGHED, "sparse vectors"])
def test_what_counts_more_is_met_better(name: str, tmp_path: Path) -> None:
    """The weighted error is less than that of the palette without importance."""
    form = WRITTEN[name]
    reports: list[Report] = []
    draw = np.random.default_rng(5)
    before = decoded(form.source())
    names = [w.name for w in form.palettize(None, dry_run=True).palettized]
    given = {key: np.exp(draw.standard_normal(before[key].shape) * 2) for key in names}
    for number, importance in enumerate((given, None)):
        reports.append(form.palettize(tmp_path / f"{number}.mlpackage", importance=importance))
    plain = decoded(tmp_path / "1.mlpackage")
    for weighed in reports[0].palettized:
        without = float((given[weighed.name] * (before[weighed.name] - plain[weighed.name]) ** 2).sum())
        assert weighed.weighted_error < without


def test_a_shared_record_with_two_importances_is_stored_twice(fixtures: Path, tmp_path: Path) -> None:
    source = fixtures / "shared_ios16.mlpackage"
    same = palettize_package(source, tmp_path / "a.mlpackage", config(), verify=True)
    shared = [w for w in same.palettized if [v.digest for v in same.palettized].count(w.digest) > 1]
    assert len(shared) > 1
    weighed = shared[0]
    importance = np.linspace(0.01, 9, math.prod(weighed.shape)).reshape(weighed.shape)
    given = {f"{weighed.function}/{weighed.name}": importance}
    report = palettize_package(source, tmp_path / "b.mlpackage", config(), verify=True, importance=given)
    keys = {(w.function, w.name) for w in shared}
    assert len({w.digest for w in report.palettized if (w.function, w.name) in keys}) == 2


def test_kept_palettes_are_told_apart_by_importance(tmp_path: Path) -> None:
    source = tmp_path / "source.mlpackage"
    converted(layers).save(str(source))
    (name, *_) = (w.name for w in palettize_package(source, None, config(), dry_run=True).palettized)
    digests = []
    for number, importance in enumerate((None, np.linspace(1, 3, 48)[:, None], np.linspace(1, 9, 48)[:, None], None)):
        given = None if importance is None else {name: importance}
        for again in (0, 1):
            out = tmp_path / f"{number}{again}.mlpackage"
            report = palettize_package(source, out, config(), verify=True, importance=given, resume=tmp_path / "kept")
            digests.append(report.palettized[0].digest)
    assert digests[0::2] == digests[1::2]
    assert len(set(digests)) == 3
    assert digests[0] == digests[-1]


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"nobody": np.ones((1, 1))}, PlanError, "importance\\['nobody'\\] matches no constant"),
        ({"w": -np.ones((8, 48))}, ConfigError, "importance\\['w'\\] has an element -1.0"),
        (
            {"w": np.ones((48, 8))},
            PlanError,
            "importance\\['w'\\] has shape \\[48, 8\\], weight 'main/w'",
        ),
    ],
)
def test_faults_leave_nothing_behind(
    given: dict[str, np.ndarray], error: type[Exception], said: str, tmp_path: Path
) -> None:
    made = program(
        const("w", np.ones((8, 48), np.float32)), op("linear", "l", {"x": "x", "weight": "w"}), outputs=["l"]
    )
    source = write_package(tmp_path / "source.mlpackage", made)
    with pytest.raises(error, match=f"^{said}"):
        palettize_package(source, tmp_path / "out.mlpackage", config(), importance=given)
    assert [path.name for path in tmp_path.iterdir()] == ["source.mlpackage"]
