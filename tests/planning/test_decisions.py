"""What is decided for constants of every kind: what an opset holds, joint compression, small and unread ones."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from mil_palettize import OpPalettizerConfig, OptimizationConfig, PlanError
from mil_palettize.planning.default_reasons import ASSUMED_NBITS, default_decisions
from mil_palettize.planning.plan import Plan, as_dense, make_plan
from mil_palettize.program.weight import Consumer, Weight
from mil_palettize.request.normalised import normalise

LINEAR = Consumer("linear", "l", "weight", 0)
SHAPE = (64, 64)


def weight(name: str = "w", *, shape: tuple[int, ...] = SHAPE, **options: Any) -> Weight:
    nbytes = 2 * int(np.prod(shape))
    given = {"dtype": "fp16", "nbytes": nbytes, "opset": "CoreML8", "consumers": (LINEAR,), "storage": None, **options}
    return Weight(name, name, "main", shape, **given)


SPARSE = {
    "form": "constexpr_sparse_to_dense", "obstacle": "it is sparse", "joint": "sparse",
    "stored": 2048, "stored_nbytes": 4096, "nbytes": 4096 + 512,
}  # fmt: skip
SCALED = {
    "form": "constexpr_blockwise_shift_scale", "obstacle": "it is quantized", "joint": "scaled",
    "stored": 4096, "stored_nbytes": 4096, "nbytes": 4096 + 128, "blocks": (64, 1),
}  # fmt: skip


def planned(weights: Iterable[Weight], *, joint: bool = False, strict: bool = False, **options: Any) -> Plan:
    config = OptimizationConfig(global_config=OpPalettizerConfig(**{"nbits": 4, **options}))
    return make_plan(
        weights, normalise(config, joint), select="weights", strict=strict, opset_after={}, op_types={"linear"},
        op_names=set(),
    )  # fmt: skip


def reason(of: Weight, **options: Any) -> str:
    (decision,) = planned([of], **options).decisions
    assert (decision.specification is None) == bool(decision.reason)
    return decision.reason


# What an opset can hold

EARLY = [
    ({"cluster_dim": 2}, "The vector palettization is supported since iOS18."),
    ({"enable_per_channel_scale": True}, "Palettization with per-channel-scale is only supported since iOS18."),
    (
        {"enable_per_channel_scale": True, "scale": "fold"},
        "The per_grouped_channel palettization is supported since iOS18.",
    ),
    ({"lut_dtype": "int8"}, "lut_dtype, a quantized look-up table, is only supported since iOS18."),
]


@pytest.mark.parametrize(("options", "said"), EARLY)
@pytest.mark.parametrize("opset", ["CoreML6", "CoreML7", "CoreML8", "CoreML9"])
def test_what_early_opsets_cannot_hold(options: dict[str, Any], said: str, opset: str) -> None:
    of = weight(opset=opset)
    if opset in ("CoreML8", "CoreML9"):
        assert reason(of, **options) == ""
        return
    with pytest.raises(PlanError, match=re.escape(f"weight 'main/w' ({opset}): {said}")):
        planned([of], **options)


@pytest.mark.parametrize("opset", ["CoreML6", "CoreML7"])
def test_joint_compression_of_early_opsets(opset: str) -> None:
    said = f"function 'main' ({opset}): Joint compression is only supported since iOS18."
    with pytest.raises(PlanError, match=re.escape(said)):
        planned([weight(opset=opset)], joint=True)
    assert reason(weight(opset=opset)) == ""


def test_opsets_without_palettes() -> None:
    assert reason(weight(opset="CoreML5")) == "opset CoreML5 can hold no palettes"
    assert reason(weight(opset="CoreML99")) == "opset CoreML99 is not known to this version"
    assert reason(weight(opset="CoreML99"), joint=True) == "opset CoreML99 is not known to this version"


# Compressed constants


@pytest.mark.parametrize("held", [SPARSE, SCALED])
def test_joint_compression(held: dict[str, Any]) -> None:
    of = weight(**held)
    assert reason(of, joint=True) == ""
    assert reason(of) == f"{of.obstacle}; joint_compression palettizes what is left of it"


@pytest.mark.parametrize(
    ("form", "way_out"),
    [
        ("constexpr_lut_to_dense", "; redo (--redo) palettizes it again"),
        ("constexpr_lut_to_sparse", "; redo (--redo) palettizes it again"),
        ("constexpr_cast", "; decompress it first"),
        ("const", ""),
    ],
)
@pytest.mark.parametrize("joint", [False, True])
def test_obstacles_and_ways_out(form: str, way_out: str, joint: bool) -> None:
    assert reason(weight(form=form, obstacle="something is wrong"), joint=joint) == f"something is wrong{way_out}"


def test_joint_compression_without_effect() -> None:
    said = "joint_compression has no effect: no weight is sparse or quantized"
    assert planned([weight()], joint=True).notes == [said]
    assert planned([weight(), weight("v", **SPARSE)], joint=True).notes == []
    assert planned([weight()]).notes == []
    with pytest.raises(PlanError, match=said):
        planned([weight()], joint=True, strict=True)


def test_what_a_compressed_constant_is_when_it_is_dense() -> None:
    dense = as_dense(weight(**SPARSE))
    assert dense == weight(stored=4096, stored_nbytes=8192)
    assert as_dense(weight(dtype="fp32", **SCALED)).nbytes == 4 * 4096
    assert as_dense(weight(dtype="int32")).nbytes == 0  # of which no palette is made


# Small ones, and those that nothing reads as weights


@pytest.mark.parametrize(
    ("of", "said"),
    [
        (weight(shape=(4096,)), "rank 1; palettes are made of weights of rank 2 and more"),
        (weight(consumers=()), "nothing reads it"),
        (
            weight(consumers=(Consumer("add", "a", "y", None), Consumer("add", "b", "y", None))),
            "does not act as a weight (read by add 'y'); name it or select 'all' to take it",
        ),
        (weight(consumers=(Consumer("add", "a", "y", None), LINEAR)), ""),
    ],
)
def test_what_is_left_alone(of: Weight, said: str) -> None:
    assert reason(of) == said


def test_named_ones_are_measured_by_their_own_threshold() -> None:
    def plan(size: int, threshold: int) -> Plan:
        named = {"w": OpPalettizerConfig(nbits=4, weight_threshold=threshold)}
        config = OptimizationConfig(op_name_configs=named)
        return make_plan(
            [weight(shape=(1, size))], normalise(config), select="weights", strict=False, opset_after={},
            op_types={"linear"}, op_names={("main", "w")},
        )  # fmt: skip

    (decision,) = plan(1, 1).decisions
    assert decision.reason == "1 element, not above weight_threshold=1"
    assert decision.unmet
    assert decision.ineligible
    (decision,) = plan(3000, 3000).decisions
    assert decision.reason == "3,000 elements, not above weight_threshold=3,000"
    assert plan(3001, 3000).decisions[0].reason == ""


def test_small_ones_are_counted() -> None:
    plan = planned([weight("a", shape=(2, 2)), weight("b"), weight("c", shape=(32, 64)), weight("d", shape=(1, 2049))])
    assert [decision.weight.name for decision in plan.decisions] == ["b", "d"]
    assert plan.small == 2


@pytest.mark.parametrize(("more", "made"), [(-1, False), (0, False), (1, True)])
def test_a_palette_has_to_be_smaller(more: int, made: bool) -> None:
    """16 entries of two bytes, half a byte for each of 4,096."""
    of = weight(nbytes=2048 + 32 + more)
    expected = f"its palette would take 2,080 bytes, the weight takes {of.nbytes:,}"
    assert reason(of) == ("" if made else expected)


# By default


def test_default_decisions() -> None:
    plain, small, early = weight("a"), weight("b", shape=(2, 1024)), weight("c", opset="CoreML5")
    odd, unknown = weight("d", shape=(4, 4), obstacle="it is odd"), weight("e", opset="CoreML99")
    tight = weight("f", nbytes=2**11 * ASSUMED_NBITS // 4 + 32)
    found = default_decisions([plain, small, early, odd, unknown, tight])
    assert all(decision.weight is of for of, decision in found.items())
    assert {of: decision.reason for of, decision in found.items()} == {
        plain: "",
        small: "2,048 elements, not above weight_threshold=2,048",
        early: "",  # which moves up
        odd: "it is odd",
        unknown: "opset CoreML99 is not known to this version",
        tight: "its palette would take 2,080 bytes, the weight takes 2,080",
    }
