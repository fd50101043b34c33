"""What a request comes to for one weight: groups, vectors, scales and tables, and every way not to have them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.planning.specifier import SCALE_WARNING, Specified, specify
from mil_palettize.program.forms import FORMS
from mil_palettize.program.weight import Consumer, Weight
from mil_palettize.request.palette_request import palette_request

LEGAL = (1, 2, 3, 4, 6, 8)
PACKED = (1, 2, 4, 6, 8)
LINEAR = Consumer("linear", "l", "weight", 0)
LOST = Consumer("linear", "l", "weight", None, (("reshape", "r"),))  # whose axis cannot be followed back
NOT_FOLLOWED = "its channel axis cannot be followed back from the op that reads it (give channel_axis)"
SCALED = {"enable_per_channel_scale": True}
FOLDED = {"enable_per_channel_scale": True, "scale": "fold"}


def weight(*consumers: Consumer, shape: tuple[int, ...] = (24, 60), **options: Any) -> Weight:
    nbytes = 2 * shape[0] * shape[1]
    return Weight("w", "w", "main", shape, "fp16", nbytes, "CoreML8", consumers or (LINEAR,), None, **options)


def specified(of: Weight, opset: str = "CoreML8", **options: Any) -> Specified:
    form = FORMS[opset]
    assert form is not None
    given = {"mode": "kmeans", **options}
    return specify(of, palette_request(given if given["mode"] != "kmeans" else {"nbits": 4, **given}), form)


def plain(**options: Any) -> PaletteSpecification:
    return PaletteSpecification("kmeans", 4, LEGAL, **options)


def test_one_table() -> None:
    assert specified(weight()) == Specified(plain())
    assert specified(weight(), "CoreML6").specification == replace(plain(), allowed_nbits=PACKED)
    assert specified(weight(), lut_dtype="int8").specification == plain(lut_dtype="int8")
    assert specified(weight(joint="sparse"), lut_dtype="int8").specification == plain(lut_dtype="int8")
    # A table of integers holds integers anyway.
    assert specified(weight(joint="scaled"), lut_dtype="int8") == Specified(plain())


@pytest.mark.parametrize(
    ("options", "axis"),
    [({}, 0), ({"channel_axis": 1}, 1), ({"channel_axis": -1}, 1), ({"channel_axis": -2}, 0), ({"channel_axis": 0}, 0)],
)
def test_groups(options: dict[str, Any], axis: int) -> None:
    grouped = {"granularity": "per_grouped_channel", "group_size": 12, **options}
    assert specified(weight(), **grouped) == Specified(plain(axis=axis, group_size=12))
    whole = specified(weight(), **{**grouped, "group_size": 0})
    assert whole == Specified(plain(axis=axis, group_size=(24, 60)[axis]))


@pytest.mark.parametrize("axis", [2, -3])
def test_axes_that_are_none(axis: int) -> None:
    why = f"channel_axis {axis} is outside its 2 axes"
    found = specified(weight(), granularity="per_grouped_channel", group_size=4, channel_axis=axis)
    assert found == Specified(plain(), f"{why}: one palette per tensor instead of groups of 4")
    found = specified(weight(), cluster_dim=2, channel_axis=axis)
    assert found == Specified(plain(), f"no vectors of 2: {why}: a palette of scalars instead")


@pytest.mark.parametrize("dim", [2, 3])
def test_vectors(dim: int) -> None:
    assert specified(weight(), cluster_dim=dim) == Specified(plain(axis=0, cluster_dim=dim))
    assert specified(weight(), cluster_dim=dim, channel_axis=1) == Specified(plain(axis=1, cluster_dim=dim))
    found = specified(weight(), cluster_dim=dim, granularity="per_grouped_channel", group_size=6)
    assert found == Specified(plain(axis=0, group_size=6, cluster_dim=dim))
    assert specified(weight(joint="sparse"), cluster_dim=dim) == Specified(plain(axis=0, cluster_dim=dim))


CONV = Consumer("conv", "c", "weight", 0, (), 12)
BESIDE = Consumer("conv", "c", "weight", None, (("reshape", "r"),), 12)


@pytest.mark.parametrize(
    ("of", "options", "why"),
    [
        (weight(), {"cluster_dim": 5}, "cluster_dim 5 does not divide the 24 channels of axis 0 in one look-up table"),
        (
            weight(),
            {"cluster_dim": 4, "granularity": "per_grouped_channel", "group_size": 6},
            "cluster_dim 4 does not divide the 6 channels of axis 0 in one look-up table",
        ),
        (weight(LOST), {"cluster_dim": 2}, f"no vectors of 2: {NOT_FOLLOWED}"),
        (weight(joint="scaled"), {"cluster_dim": 2}, "no vectors of 2 of values that are scaled"),
        (weight(CONV), {"cluster_dim": 4}, f"cluster_dim 4 does not divide the 2 channels of a group of {CONV}"),
        (
            weight(BESIDE),
            {"cluster_dim": 2, "channel_axis": 1},
            f"cluster_dim 2 does not divide the 5 channels of a group of {BESIDE}",
        ),
        (
            weight(LINEAR, BESIDE),
            {"cluster_dim": 4, "channel_axis": 0},
            f"cluster_dim 4 does not divide the 2 channels of a group of {BESIDE}",
        ),
    ],
)
def test_vectors_that_cannot_be(of: Weight, options: dict[str, Any], why: str) -> None:
    """Scalars instead, but for a function, which would make vectors."""
    found = specified(of, **options)
    assert found.specification is not None
    assert found.specification.cluster_dim == 1
    assert found.unmet == f"{why}: a palette of scalars instead"
    custom = specified(of, mode="custom", lut_function=lambda w: w, **options)
    assert custom == Specified(None, why)


def test_vectors_of_groups_of_a_convolution() -> None:
    """Groups split the weight along axis 0 as the op reads it."""
    assert specified(weight(CONV), cluster_dim=2) == Specified(plain(axis=0, cluster_dim=2))
    assert specified(weight(CONV), cluster_dim=4, channel_axis=1) == Specified(plain(axis=1, cluster_dim=4))


def test_scales() -> None:
    warned = (SCALE_WARNING,)
    assert specified(weight(), **SCALED) == Specified(plain(scale_axis=0), "", warned)
    both = specified(weight(), **SCALED, cluster_dim=2, channel_axis=1)
    assert both == Specified(plain(scale_axis=0, axis=1, cluster_dim=2), "", warned)
    assert specified(weight(LOST), **SCALED) == Specified(plain(), f"no scales: {NOT_FOLLOWED}")
    for joint in ("sparse", "scaled"):
        assert specified(weight(joint=joint), **SCALED) == Specified(plain(), f"no scales for values that are {joint}")
    neither = specified(weight(LOST), **SCALED, cluster_dim=2)
    assert neither.unmet == (
        f"no vectors of 2: {NOT_FOLLOWED}: a palette of scalars instead; no scales: {NOT_FOLLOWED}"
    )


def test_scales_in_the_tables() -> None:
    """A table for each channel contains every scale."""
    assert specified(weight(), **FOLDED) == Specified(plain(axis=0, group_size=1))
    assert specified(weight(LOST), **FOLDED) == Specified(plain(), f"{NOT_FOLLOWED}: no scales")
    # The integers of a quantized weight have scales already.
    assert specified(weight(joint="scaled"), **FOLDED).specification == plain()
    grouped = {"granularity": "per_grouped_channel", **FOLDED}
    said = "groups of 4 are not made: scale='fold' writes a table for each channel"
    assert specified(weight(), group_size=4, **grouped) == Specified(plain(axis=0, group_size=1), "", (said,))
    assert specified(weight(), group_size=1, **grouped) == Specified(plain(axis=0, group_size=1))
    vectors = specified(weight(), cluster_dim=2, **FOLDED)
    assert vectors.specification == plain(axis=0, group_size=1)
    assert vectors.unmet.startswith("no vectors of 2: scale='fold' writes a table for each channel")
    both = specified(weight(LOST), cluster_dim=2, **FOLDED)
    assert both.unmet.startswith(f"{NOT_FOLLOWED}: no scales; no vectors of 2: scale='fold'")


def unique(**options: Any) -> PaletteSpecification:
    return PaletteSpecification("unique", None, LEGAL, **options)


def test_tables_for_channels_where_one_may_not_do() -> None:
    """Of what has to be lossless, and where the opset has such tables."""
    assert specified(weight(), mode="unique") == Specified(unique(spread_axis=0))
    assert specified(weight(LOST), mode="unique") == Specified(unique())
    early = specified(weight(), "CoreML7", mode="unique").specification
    assert early == replace(unique(), allowed_nbits=PACKED)
    assert specified(weight(), mode="unique", cluster_dim=2) == Specified(unique(axis=0, cluster_dim=2))
    assert specified(weight(joint="sparse"), mode="unique") == Specified(unique())
    grouped = specified(weight(), mode="unique", granularity="per_grouped_channel", group_size=4)
    assert grouped == Specified(unique(spread_axis=0, axis=0, group_size=4))


def test_readers_that_want_different_axes() -> None:
    """Those that read it as a weight are asked, all of them; the others where there are none."""
    turned = Consumer("linear", "m", "weight", 1)
    other = Consumer("add", "a", "y", 1)
    why = "the ops that read it want different channel axes (linear axis 0, linear axis 1; give channel_axis)"
    assert specified(weight(LINEAR, turned), **SCALED).unmet == f"no scales: {why}"
    assert specified(weight(LINEAR, turned, turned), **SCALED).unmet == f"no scales: {why}"
    assert specified(weight(LINEAR, other), **SCALED).specification == plain(scale_axis=0)
    assert specified(weight(other), **SCALED).specification == plain(scale_axis=1)
    assert specified(weight(LINEAR, LOST), **SCALED).unmet == f"no scales: {NOT_FOLLOWED}"
