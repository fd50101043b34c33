"""Entries of configs that match nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry
from coremltools.proto import MIL_pb2 as MIL
from mil_messages import const, decisions, op, planned, program, value

from mil_palettize import (
    ConfigError,
    OpPalettizerConfig,
    OptimizationConfig,
    PlanError,
    Report,
)
from mil_palettize.request.normalised import known_op_types

W = (64, 48)
Palettize = Callable[..., tuple[Path, Report]]


def bits(nbits: int, **options: object) -> OpPalettizerConfig:
    return OpPalettizerConfig(nbits=nbits, **options)


def small_model() -> MIL.Program:
    return program(
        const("encoder_weight", shape=W),
        op("linear", "encoder_linear", {"x": "x", "weight": "encoder_weight"}, shape=(1, 64)),
        op("relu", "encoder_relu", {"x": "encoder_linear"}),
    )


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("encoder_weigth", "; did you mean 'encoder_weight'"),
        ("encoder_liner", "; did you mean 'encoder_linear'"),
        ("main/encoder_weigth", "; did you mean 'main/encoder_weight'"),
        ("maim/encoder_weight", "; did you mean 'main/encoder_weight'"),
        ("zzz", ""),
    ],
)
def test_unknown_name_is_a_warning_with_near_names(key: str, near: str) -> None:
    config = OptimizationConfig(global_config=bits(4), op_name_configs={key: bits(2)})
    plan = planned(small_model(), config)
    (note,) = plan.notes
    assert note.startswith(f"op_name_configs[{key!r}] matches nothing in function main{near}")
    assert ("did you mean" in note) == bool(near)
    with pytest.raises(PlanError, match=r"^strict: 1 request cannot be met as asked: op_name_configs"):
        planned(small_model(), config, strict=True)
    # Also where it asks for nothing: a name to be spared must not be misspelt either.
    with pytest.raises(PlanError, match="matches nothing"):
        planned(small_model(), OptimizationConfig(op_name_configs={key: None}), strict=True)


@pytest.mark.parametrize("key", ["encoder_relu", "main/encoder_relu"])
def test_name_of_an_op_without_weights(key: str) -> None:
    plan = planned(small_model(), OptimizationConfig(global_config=bits(4), op_name_configs={key: bits(2)}))
    assert plan.notes == [f"op_name_configs[{key!r}]: reads no constant above its weight_threshold"]
    quiet = planned(small_model(), OptimizationConfig(op_name_configs={key: None}), strict=True)
    assert quiet.notes == []


def test_overruled_names_did_match() -> None:
    """Each of these entries names the weight or what reads it; one decides, none is called unmatched."""
    made = program(
        const("w", shape=(48, 64)),
        op("cast", "half", {"x": "w", "dtype": value("fp16")}, shape=(48, 64)),
        op("linear", "l", {"x": "x", "weight": "half"}, shape=(1, 48)),
    )
    for keys in itertools.combinations(["main/w", "w", "main/l", "l", "main/half", "half"], 2):
        config = OptimizationConfig(op_name_configs=dict.fromkeys(keys, bits(4)))
        plan = planned(made, config, strict=True)
        assert plan.notes == [], keys
        assert decisions(plan)["w"].specification.nbits == 4


def test_op_type_that_the_model_lacks() -> None:
    plan = planned(small_model(), OptimizationConfig(op_type_configs={"conv": bits(4), "linear": None}), strict=True)
    assert plan.notes == ["op_type_configs['conv']: this model has no conv"]


@pytest.mark.parametrize(
    ("op_type", "near"), [("convolution", ""), ("Conv", "; did you mean 'conv'"), ("linaer", "; did")]
)
def test_unknown_op_type_is_an_error(op_type: str, near: str) -> None:
    for config in (bits(4), None):
        with pytest.raises(ConfigError, match=f"^op_type_configs.'{op_type}'.: no such op type{near}"):
            planned(small_model(), OptimizationConfig(op_type_configs={op_type: config}))


@pytest.mark.parametrize("op_type", ["const", "constexpr_lut_to_dense"])
def test_const_is_no_op_type(op_type: str) -> None:
    with pytest.raises(ConfigError, match="const ops cannot be set by the `set_op_type` function"):
        planned(small_model(), OptimizationConfig(op_type_configs={op_type: bits(4)}))


def test_op_types_of_the_model_are_known_even_if_coremltools_has_none() -> None:
    made = program(const("w", shape=W), op("future_op", "f", {"x": "w"}))
    plan = planned(made, OptimizationConfig(op_type_configs={"future_op": bits(4)}), strict=True)
    assert decisions(plan)["w"].specification is not None


def test_op_types_are_those_of_the_registry() -> None:
    assert {"conv", "linear", "gather", "lstm", "while_loop"} <= known_op_types()
    assert {name for name in SSAOpRegistry.core_ops if not name.startswith("_")} <= known_op_types()
