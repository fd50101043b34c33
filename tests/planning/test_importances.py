"""Which importance goes to which weight; what has no effect is told, what belongs to nothing is an error."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools.proto import MIL_pb2 as MIL
from mil_messages import block, const, decisions, function, op, planned, program

from mil_palettize import OpPalettizerConfig, OptimizationConfig, PlanError
from mil_palettize.request.importance import WeightsImportance

W = (64, 48)
ONES, TWOS = np.ones(W), np.full(W, 2.0)
GIVEN = "importance['w'] has no effect: "


def two() -> MIL.Program:
    reads = op("linear", "l", {"x": "x", "weight": "w"}), op("linear", "m", {"x": "x", "weight": "v"})
    return program(const("w", shape=W), const("v", shape=W), *reads)


def functions() -> MIL.Program:
    body = block(const("w", shape=W), op("linear", "l", {"x": "x", "weight": "w"}))
    return MIL.Program(version=1, functions={name: function({"CoreML8": body}) for name in ("prefill", "decode")})


def test_by_name() -> None:
    found = decisions(planned(two(), nbits=4, importance={"w": ONES}))
    assert np.array_equal(found["w"].importance.array, ONES)
    assert found["v"].importance is None
    assert (found["w"].notes, found["w"].unmet) == ((), False)


def test_of_a_function_before_the_bare_name() -> None:
    plan = planned(functions(), nbits=4, importance={"w": ONES, "decode/w": TWOS}, strict=True)
    found = {d.weight.function: d.importance.array for d in plan.decisions}
    assert np.array_equal(found["prefill"], ONES)
    assert np.array_equal(found["decode"], TWOS)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("vv", "matches no constant in function main; did you mean 'v'"),
        ("other/w", "matches no constant in function main$"),
        ("main/ww", "matches no constant in function main; did you mean 'main/w'"),
        ("l", "matches no constant in function main"),  # an op, which reads a constant
    ],
)
def test_names_that_match_nothing(key: str, said: str) -> None:
    with pytest.raises(PlanError, match=rf"^importance\['{key}'\] {said}"):
        planned(two(), nbits=4, importance={"w": ONES, key: ONES})


@pytest.mark.parametrize("shape", [(48, 64), (64,), (64, 48, 1), (5, 48)])
def test_shapes_that_do_not_fit(shape: tuple[int, ...]) -> None:
    said = f"importance['w'] has shape {list(shape)}, weight 'main/w' has [64, 48]"
    with pytest.raises(PlanError) as caught:
        planned(two(), nbits=4, importance={"w": np.ones(shape)})
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"nbits": 4, "mode": "uniform"}, "mode 'uniform' chooses its entries without"),
        ({"mode": "custom", "lut_function": lambda w: w}, "mode 'custom' chooses its entries without"),
    ],
)
def test_palettes_that_are_made_without(options: dict[str, object], why: str) -> None:
    found = decisions(planned(two(), importance={"w": ONES}, **options))
    assert found["w"].specification == found["v"].specification
    assert (found["w"].unmet, found["w"].notes) == (True, (GIVEN + why,))
    assert (found["v"].unmet, found["v"].notes) == (False, ())
    with pytest.raises(PlanError, match="strict: 1 request cannot be met as asked.*" + why):
        planned(two(), importance={"w": ONES}, strict=True, **options)


def test_strict_tells_of_everything_that_is_unmet() -> None:
    options = {"nbits": 4, "mode": "uniform", "granularity": "per_grouped_channel", "group_size": 31}
    with pytest.raises(PlanError, match=r"groups of 32 instead; importance\['w'\] has no effect"):
        planned(two(), importance={"w": ONES}, strict=True, **options)


def test_nothing_is_lost_by_unique() -> None:
    assert not decisions(planned(two(), mode="unique", importance={"w": ONES}, strict=True))["w"].notes


def test_weights_that_are_left_alone() -> None:
    config = OptimizationConfig(OpPalettizerConfig(nbits=4), op_name_configs={"w": None})
    decision = decisions(planned(two(), config, importance={"w": ONES}, strict=True))["w"]
    assert decision.notes == (GIVEN + "the weight is left alone",)
    assert decision.importance is None


def test_weights_below_the_threshold() -> None:
    plan = planned(two(), nbits=4, weight_threshold=5000, importance={"w": ONES}, strict=True)
    assert plan.notes == [GIVEN + "'main/w' is small and left alone"]


def test_importance_of_all_weights_says_nothing_of_those_that_are_left_alone() -> None:
    """As ``sensitivity`` writes it: nobody asked for these."""
    config = OptimizationConfig(OpPalettizerConfig(nbits=4), op_name_configs={"w": None})
    plan = planned(two(), config, importance=WeightsImportance({"w": ONES, "v": ONES}), strict=True)
    assert [(decision.weight.name, decision.notes) for decision in plan.decisions] == [("w", ()), ("v", ())]
    plan = planned(two(), nbits=4, weight_threshold=5000, importance=WeightsImportance({"w": ONES}))
    assert (plan.small, plan.notes) == (2, [])
