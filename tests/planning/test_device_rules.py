"""What devices are known not to take, and what is known to cost time there: each rule at its edges."""

from __future__ import annotations

from typing import Any

import pytest

from mil_palettize.planning.device_rules import DEVICES, RULES, costs, forbidden

PLAIN: dict[str, Any] = {"nbits": 4}


def grouped(size: int, **options: Any) -> dict[str, Any]:
    return {**PLAIN, "granularity": "per_grouped_channel", "group_size": size, **options}


def told(options: dict[str, Any], device: str) -> tuple[str, list[str]]:
    """What is said first of what the device does not take, and of what costs time there."""
    rule = forbidden(options, device)
    return "" if rule is None else rule.what, [one.what for one in costs(options, device)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("nbits", [1, 2, 4, 8])
def test_a_table_for_each_tensor_runs_everywhere(device: str, nbits: int) -> None:
    assert told({"nbits": nbits}, device) == ("", [])
    # A size of groups without groups, as configs may have it.
    assert told({"nbits": nbits, "granularity": "per_tensor", "group_size": 4}, device) == ("", [])


@pytest.mark.parametrize(
    ("options", "ane", "any_"),
    [
        ({**PLAIN, "nbits": 3}, "3 bits run at the speed of 4", "3 bits run at the speed of 4"),
        ({**PLAIN, "nbits": 6}, "6 bits run at the speed of 8", "6 bits run at the speed of 8"),
        (grouped(8), "groups of 8 cost some 47 % of time", "groups of 8 cost some 47 % of time"),
        (grouped(9), "groups cost some 20 % of time", "groups cost some 20 % of time"),
        (grouped(7), None, "groups below 8 cost several times the latency"),
        (grouped(1), None, "groups below 8 cost several times the latency"),
    ],
)
def test_what_costs_time(options: dict[str, Any], ane: str | None, any_: str) -> None:
    """``None``: the device does not take it at all. Where any device may run it, it only costs time."""
    if ane is None:
        assert told(options, "ane") == ("groups below 8 cost several times the latency", [])
    else:
        assert told(options, "ane") == ("", [ane])
    assert told(options, "any") == ("", [any_])
    assert told(options, "gpu") == ("", [])


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({**PLAIN, "enable_per_channel_scale": True}, "a scale for each channel"),
        ({**PLAIN, "enable_per_channel_scale": True, "scale": "fold"}, ""),
        ({**PLAIN, "enable_per_channel_scale": False, "scale": "op"}, ""),
        (grouped(16, cluster_dim=2), "tables of vectors run on the Neural Engine per tensor only"),
        ({"nbits": 6, "cluster_dim": 4}, ""),  # 256 values
        ({"nbits": 8, "cluster_dim": 1}, ""),
        ({"nbits": 8, "cluster_dim": 2}, "tables of vectors run on the Neural Engine up to 256 values"),
        ({"nbits": 6, "cluster_dim": 5}, "tables of vectors run on the Neural Engine up to 256 values"),
    ],
)
def test_what_the_neural_engine_does_not_take(options: dict[str, Any], refused: str) -> None:
    for device in ("ane", "any"):
        what = told(options, device)[0]
        assert what.startswith(refused)
        assert bool(what) == bool(refused)
    assert told(options, "gpu") == ("", [])


def test_every_rule_has_a_source() -> None:
    assert all(rule.source and set(rule.devices) <= set(DEVICES) for rule in RULES)
