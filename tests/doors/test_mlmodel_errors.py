"""Requests that cannot be met, through ``palettize_weights(mlmodel, …)``: what coremltools raises, and this library."""

from __future__ import annotations

from collections.abc import Callable

import coremltools as ct
import coremltools.optimize.coreml as cto
import pytest
from door_networks import IOS16, IOS18, config, converted, tied

from mil_palettize import PlanError, palettize_weights

GROUPS = {"granularity": "per_grouped_channel", "group_size": 8}
OPTIONS = cto.OpPalettizerConfig
UNIFORM_VECTORS = {"mode": "uniform", "cluster_dim": 2}
PRUNER = cto.OpMagnitudePrunerConfig(target_sparsity=0.5)
REFUSED: list[tuple[ct.target, object, object]] = [
    (IOS16, config(nbits=3), False),
    (IOS16, config(**GROUPS), False),
    (IOS16, config(cluster_dim=2), False),
    (IOS16, config(enable_per_channel_scale=True), False),
    (IOS16, config(), True),
    (IOS18, config(), 1),
    (IOS18, config(), "yes"),
    (IOS18, config(), None),
    (IOS18, config(**UNIFORM_VECTORS), False),
    (IOS18, config(weight_threshold=None), False),
    (IOS16, cto.OptimizationConfig(op_type_configs={"const": OPTIONS(nbits=2)}), False),
    (IOS16, cto.OptimizationConfig(cto.OpLinearQuantizerConfig()), False),
    (IOS16, cto.OptimizationConfig(op_type_configs={"linear": PRUNER}), False),
    (IOS16, cto.OptimizationConfig(op_name_configs={"head_cast_fp16": PRUNER}), False),
]


def both(target: ct.target, asked: object, joint: object) -> tuple[Exception | None, Exception | None]:
    """What coremltools raises, and this library."""

    def raised(act: Callable[..., object]) -> Exception | None:
        try:
            act(model, asked, joint)
        except Exception as error:
            return error
        return None

    model = converted(tied, target)
    return raised(cto.palettize_weights), raised(palettize_weights)


@pytest.mark.parametrize(("target", "asked", "joint"), REFUSED)
def test_refused_as_by_coremltools(target: ct.target, asked: object, joint: object) -> None:
    theirs, mine = both(target, asked, joint)
    assert theirs is not None
    assert isinstance(mine, type(theirs))
    assert str(theirs).rstrip(".") in str(mine)
    assert "\n" not in str(mine)


# Where it is otherwise: what coremltools raises, what this library does.
OTHERWISE: dict[str, tuple[object, type | None, type | None]] = {
    "no config": (None, AttributeError, ValueError),
    "an op type that does not exist": (
        cto.OptimizationConfig(op_type_configs={"convolution": OPTIONS(nbits=2)}), None, ValueError,
    ),
    "a group size below 0": (config(granularity="per_grouped_channel", group_size=-3), ValueError, ValueError),
    "a group size that does not divide: the nearest that does": (
        config(granularity="per_grouped_channel", group_size=7), None, None,
    ),
    "vectors that do not divide: scalars": (config(cluster_dim=5), None, None),
    "vectors of nothing": (config(cluster_dim=0), ZeroDivisionError, ValueError),
    "an axis that does not exist: one table": (
        config(granularity="per_grouped_channel", channel_axis=7), ValueError, None,
    ),
    "ops that read one weight want different palettes: the more specific": (
        cto.OptimizationConfig(config().global_config, op_type_configs={"gather": config(nbits=2).global_config}),
        ValueError, None,
    ),
    "a function that gives too few indices": (
        config(mode="custom", nbits=None, lut_function=lambda w: ([1, 2], [0])), ValueError, ValueError,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERWISE)
def test_where_it_is_otherwise(case: str) -> None:
    asked, theirs, mine = OTHERWISE[case]
    got = both(IOS18, asked, False)
    for error, expected in zip(got, (theirs, mine), strict=True):
        assert error is None if expected is None else isinstance(error, expected)


def test_strict_and_select() -> None:
    model = converted(tied)
    with pytest.raises(PlanError, match="strict: 1 request cannot be met as asked"):
        palettize_weights(model, config(granularity="per_grouped_channel", group_size=7), strict=True)
    with pytest.raises(ValueError, match="select is 'some', allowed are"):
        palettize_weights(model, config(), select="some")
    with pytest.raises(TypeError, match="positional"):
        palettize_weights(model, config(), False, "all")
