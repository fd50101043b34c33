"""What tells kept palettes apart, and that they come back as they were."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from kept_palettes import IOS18, PLAN, WEIGHT, checked, files, key, palette, same

from mil_palettize.algorithms.making import ArraySource, describe
from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.encoding import palette_cache as clustered
from mil_palettize.encoding.palette_cache import Clustered
from mil_palettize.expressions.weight_expr import lut_of
from mil_palettize.program.forms import FORMS

OTHER_PLANS: dict[str, object] = {
    "mode": "uniform",
    "nbits": 2,
    "allowed_nbits": (1, 2, 3, 4, 6, 8),
    "axis": 0,
    "group_size": 4,
    "cluster_dim": 2,
    "scale_axis": 0,
    "lut_dtype": "int8",
    "spread_axis": 0,
}


def test_every_part_of_a_plan_and_form_tells_palettes_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert OTHER_PLANS.keys() == {f.name for f in dataclasses.fields(PaletteSpecification)} - {"lut_function"}
    folder, kept = Clustered(str(tmp_path)), palette()
    plans = [dataclasses.replace(PLAN, **{name: value}) for name, value in OTHER_PLANS.items()]
    forms = [form for form in FORMS.values() if form is not None and form != IOS18]
    assert forms
    folder.keep_palette(key("content"), kept)
    assert same(folder.palette(key("content"), PLAN, WEIGHT), kept)
    weighed = [checked(given) for given in (np.ones((1, 1)), np.ones((1, 8)), np.full((1, 8), 2.0))]
    others = [
        (key("another"), PLAN),
        *((key("content", plan), plan) for plan in plans),
        *((key("content", PLAN, form), PLAN) for form in forms),
        *((key("content", PLAN, IOS18, importance), PLAN) for importance in weighed),
    ]
    assert [folder.palette(*other, WEIGHT) for other in others] == [None] * len(others)
    monkeypatch.setattr(clustered, "_code", lambda: "of another version")
    assert folder.palette(key("content"), PLAN, WEIGHT) is None


def test_weighted_error_is_kept(tmp_path: Path) -> None:
    importance, folder = checked(np.full((1, 1), 2.0)), Clustered(str(tmp_path))
    weighed = dataclasses.replace(palette(), weighted_error=2 * palette().sse)
    folder.keep_palette(key("content"), weighed)
    assert same(folder.palette(key("content"), PLAN, WEIGHT, importance=importance), weighed)
    assert folder.palette(key("content"), PLAN, WEIGHT) is None  # of another run, whatever its file is called


def test_plan_that_was_carried_out_otherwise(tmp_path: Path) -> None:
    plan = dataclasses.replace(PLAN, spread_axis=1)
    lut = lut_of(palette().expr)
    spread = dataclasses.replace(lut, lut=np.repeat(lut.table, 8, axis=1))
    made = dataclasses.replace(palette(), expr=spread, specification=dataclasses.replace(plan, axis=1, group_size=1))
    Clustered(str(tmp_path)).keep_palette(key("content", plan), made)
    assert same(Clustered(str(tmp_path)).palette(key("content", plan), plan, WEIGHT), made)


def test_content_is_values_shape_and_dtype() -> None:
    array = np.arange(64, dtype=np.float16).reshape(8, 8)
    changed = array.copy()
    changed[7, 7] += 1
    distinct = [array, changed, array.reshape(4, 16), array.T, array.astype(np.float32), array.view(np.float32)]
    folder = Clustered("nowhere")
    contents_of = [folder.content(ArraySource("w", each), None) for each in distinct]
    assert len(set(contents_of)) == len(distinct)
    assert folder.content(ArraySource("under another name", array.copy()), None) == contents_of[0]
    assert folder.content(ArraySource("w", array), palette().expr) == folder.content(
        ArraySource("v", changed), palette().expr
    )
    assert folder.content(ArraySource("w", array), palette(1).expr) != folder.content(
        ArraySource("w", array), palette().expr
    )


def distributions() -> Iterator[np.ndarray]:
    draw = np.random.default_rng(5)
    yield draw.standard_normal(3000).astype(np.float16)
    yield np.array([-0.0, 0.0, 65504, -65504, 6e-8], np.float16)
    yield draw.standard_normal(3000).astype(np.float32)
    yield draw.standard_normal((1 << 20) + 1).astype(np.float32)  # in cells
    yield np.repeat(np.array([1e-30, 3e38, -5], np.float32), 100_000)


@pytest.mark.parametrize("array", list(distributions()), ids=["fp16", "extremes", "fp32", "cells", "many equal"])
def test_distinct_values_come_back_as_they_were(array: np.ndarray, tmp_path: Path) -> None:
    found, folder = describe(ArraySource("w", array)), Clustered(str(tmp_path))
    assert folder.distribution("content", ArraySource("w", array)) is None
    folder.keep_distribution("content", found)
    again = folder.distribution("content", ArraySource("v", array))
    assert again is not None
    for part in ("values", "weights"):
        assert getattr(again, part).dtype == np.float64
        assert getattr(again, part).tobytes() == getattr(found, part).tobytes()
    assert (again.name, again.dtype, again.size, again.exact) == ("v", found.dtype, found.size, found.exact)
    assert again.signal == found.signal
    # Not larger than the weight by more than the counts.
    assert sum(file.stat().st_size for file in files(tmp_path)) < 2 * array.nbytes + 4096
