"""Along which axis a weight is grouped, and in groups of how many channels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from coremltools.proto import MIL_pb2 as MIL
from mil_messages import const, decisions, op, planned, program, value, weights
from packages import constants

from mil_palettize import PlanError, Report
from mil_palettize.planning.plan import Decision
from mil_palettize.planning.specifier import nearest_divisor

GROUPED = {"nbits": 4, "granularity": "per_grouped_channel"}
Palettize = Callable[..., tuple[Path, Report]]


def decide(*operations: MIL.Operation, strict: bool = False, **options: object) -> Decision:
    """The plan of the constant ``w``."""
    return decisions(planned(program(*operations), strict=strict, **GROUPED, **options))["w"]


# Behind shape ops


W = (48, 64)


@pytest.mark.parametrize(
    ("operations", "axis"),
    [
        ([op("transpose", "a", {"x": "w", "perm": value(np.array([1, 0]))}, shape=(64, 48))], 1),
        ([op("transpose", "a", {"x": "w", "perm": value(np.array([-1, -2]))}, shape=(64, 48))], 1),
        ([op("cast", "a", {"x": "w", "dtype": value("fp32")}, shape=W)], 0),
        ([op("reshape", "a", {"x": "w", "shape": value(np.array([48, 8, 8]))}, shape=(48, 8, 8))], 0),
        ([op("reshape", "a", {"x": "w", "shape": value(np.array([96, 32]))}, shape=(96, 32))], None),
        ([op("expand_dims", "a", {"x": "w", "axes": value(np.array([1]))}, shape=(48, 1, 64))], 0),
        (
            [
                op("expand_dims", "b", {"x": "w", "axes": value(np.array([0]))}, shape=(1, 48, 64)),
                op("transpose", "a", {"x": "b", "perm": value(np.array([2, 0, 1]))}, shape=(64, 1, 48)),
            ],
            1,
        ),
        ([op("split", "s", {"x": "w", "axis": value(0)}, outputs=[("a", (24, 64)), ("b", (24, 64))])], 0),
        ([op("split", "s", {"x": "w", "axis": value(1)}, outputs=[("a", (48, 32)), ("b", (48, 32))])], 0),
        ([op("concat", "a", {"values": ["w", "w"], "axis": value(0)}, shape=(96, 64))], 0),
        ([op("stack", "a", {"values": ["w", "w"], "axis": value(0)}, shape=(2, 48, 64))], None),
    ],
)
def test_axis_of_linear_behind_shape_ops(operations: list[MIL.Operation], axis: int | None) -> None:
    made = [const("w", shape=W), *operations, op("linear", "l", {"x": "x", "weight": "a"})]
    assert {consumer.channel_axis for consumer in weights(program(*made))["w"].consumers} == {axis}
    decision = decide(*made, group_size=8)
    if axis is not None:
        assert (decision.specification.axis, decision.specification.group_size, decision.notes) == (axis, 8, ())
        return
    assert decision.specification.axis is None
    assert decision.notes == (
        "its channel axis cannot be followed back from the op that reads it (give channel_axis): one palette per "
        "tensor instead of groups of 8",
    )
    assert decide(*made, group_size=8, channel_axis=-1).specification.axis == 1


# Consumers that want different axes


def conflicting() -> list[MIL.Operation]:
    return [
        const("w", shape=(64, 48)),
        op("linear", "l", {"x": "x", "weight": "w"}),
        op("matmul", "m", {"x": "x", "y": "w"}),
    ]


def test_conflicting_axes_do_not_matter_per_tensor() -> None:
    decision = decisions(planned(program(*conflicting()), nbits=4, strict=True))["w"]
    assert (decision.specification.axis, decision.notes) == (None, ())


def test_conflicting_axes_in_groups_give_one_palette_and_a_note() -> None:
    decision = decide(*conflicting(), group_size=8)
    assert (decision.specification.axis, decision.specification.granularity) == (None, "per_tensor")
    assert decision.notes == (
        "the ops that read it want different channel axes (linear axis 0, matmul axis 1; give channel_axis): one "
        "palette per tensor instead of groups of 8",
    )
    with pytest.raises(PlanError, match=r"^strict: 1 request .*'main/w': the ops that read it want different channel"):
        decide(*conflicting(), group_size=8, strict=True)


@pytest.mark.parametrize(("given_axis", "axis"), [(0, 0), (1, 1), (-1, 1), (-2, 0)])
def test_explicit_axis_settles_it(given_axis: int, axis: int) -> None:
    decision = decide(*conflicting(), group_size=8, channel_axis=given_axis, strict=True)
    assert (decision.specification.axis, decision.specification.group_size, decision.notes) == (axis, 8, ())


def test_explicit_axis_beats_the_ops() -> None:
    made = [const("w", shape=(64, 48)), op("linear", "l", {"x": "x", "weight": "w"})]
    assert decide(*made, group_size=8, channel_axis=1).specification.axis == 1


def test_axis_outside_the_weight() -> None:
    made = [const("w", shape=(64, 48)), op("linear", "l", {"x": "x", "weight": "w"})]
    decision = decide(*made, group_size=8, channel_axis=2)
    assert decision.specification.axis is None
    assert decision.notes[0].startswith("channel_axis 2 is outside its 2 axes: one palette per tensor")
    with pytest.raises(PlanError, match="channel_axis 2 is outside"):
        decide(*made, group_size=8, channel_axis=2, strict=True)


def test_only_weight_inputs_speak_when_there_are_some() -> None:
    """A table that is also added to something is grouped as the gather reads it."""
    made = [
        const("w", shape=(64, 48)),
        op("matmul", "m", {"x": "x", "y": "w"}),
        op("add", "a", {"x": "x", "y": "w"}),
    ]
    assert decide(*made, group_size=8).specification.axis == 1


# Groups


def test_nearest_divisor_by_brute_force() -> None:
    for channels in range(1, 65):
        for size in range(1, 140):
            allowed = [d for d in range(1, channels + 1) if channels % d == 0 and size / 2 <= d <= 2 * size]
            best = min(allowed, key=lambda d: (abs(d - size), d)) if allowed else None
            assert nearest_divisor(channels, size) == best, (channels, size)


def linear_of(rows: int, columns: int = 64) -> list[MIL.Operation]:
    return [const("w", shape=(rows, columns)), op("linear", "l", {"x": "x", "weight": "w"})]


@pytest.mark.parametrize(
    ("rows", "asked", "size", "note"),
    [
        (64, 16, 16, ""),
        (64, 64, 64, ""),
        (64, 1, 1, ""),
        (64, 0, 64, ""),
        (63, 16, 21, "group_size 16 does not divide the 63 channels of axis 0: groups of 21 instead"),
        (60, 8, 6, "group_size 8 does not divide the 60 channels of axis 0: groups of 6 instead"),
        (48, 32, 24, "group_size 32 does not divide the 48 channels of axis 0: groups of 24 instead"),
        (
            61, 16, None,
            "group_size 16 does not divide the 61 channels of axis 0 and no divisor lies in 8 to 32: one palette per "
            "tensor",
        ),
        (
            97, 3, None,
            "group_size 3 does not divide the 97 channels of axis 0 and no divisor lies in 1.5 to 6: one palette per "
            "tensor",
        ),
    ],
)  # fmt: skip
def test_groups_that_do_not_divide_the_channels(rows: int, asked: int, size: int | None, note: str) -> None:
    made = linear_of(rows, columns=1024)
    decision = decide(*made, group_size=asked)
    assert (decision.specification.group_size, decision.notes) == (size, (note,) if note else ())
    assert decision.specification.axis == (None if size is None else 0)
    if note:
        with pytest.raises(PlanError, match=rf"^strict: .*'main/w': {note[:30]}"):
            decide(*made, group_size=asked, strict=True)
    else:
        decide(*made, group_size=asked, strict=True)


def test_palettes_of_many_groups_may_be_larger_than_the_weight() -> None:
    """64 tables of 16 entries of 2 bytes and 64·40/2 bytes of indices are 3328 bytes, the weight has 5120."""
    assert decide(*linear_of(64, 40), group_size=1).specification.group_size == 1
    decision = decide(*linear_of(320, 8), group_size=1)
    assert decision.specification is None
    assert decision.reason == "its palette would take 11,520 bytes, the weight takes 5,120"


def test_report_and_package_say_what_was_done(fixtures: Path, palettize: Palettize) -> None:
    source = fixtures / "odd_values_ios18.mlpackage"
    written, report = palettize(source, nbits=3, granularity="per_grouped_channel", group_size=16, verify=True)
    of = {w.name: w for w in report.weights}
    assert of["indivisible_weight"].group_size == 21
    assert "groups of 21 instead" in of["indivisible_weight"].notes[0]
    assert "groups of 21 instead" in report.to_text(200)
    luts = {k[-1]: o for k, (o, _) in constants(written).items() if o.type == "constexpr_lut_to_dense"}
    shapes = {
        name: [d.constant.size for d in o.inputs["lut"].arguments[0].value.type.tensorType.dimensions]
        for name, o in luts.items()
    }
    assert shapes["indivisible_weight"] == [3, 1, 8, 1]
    assert shapes["values200_weight"] == [4, 1, 8, 1]
    with pytest.raises(PlanError, match="'main/indivisible_weight': group_size 16 does not divide the 63 channels"):
        palettize(source, nbits=3, granularity="per_grouped_channel", group_size=16, strict=True)


def test_tied_table_has_one_axis(fixtures: Path, palettize: Palettize) -> None:
    """gather and matmul with transpose_y both have it on axis 0."""
    options = {**GROUPED, "group_size": 8, "target": "iOS18", "verify": True}
    _, report = palettize(fixtures / "embedding_matmul_ios16.mlpackage", **options)
    (table,) = report.palettized
    assert (table.channel_axis, table.group_size, table.notes) == (0, 8, ())
