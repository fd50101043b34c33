"""What Core ML's devices are known to run, and how fast: one table, each line with its source. Nothing here was
measured by this library, which runs no device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

DEVICES = ("any", "ane", "gpu")

_FORGE = "Anemll/anemll-forge, docs/history (M6, M5 Max, macOS 27)"
_OPT = "coremltools' guide, OPT-1.3B table"
_MOST_VALUES = 256

Options = Mapping[str, Any]


@dataclass(frozen=True)
class DeviceRule:
    """``devices``: it holds for, of those that :data:`DEVICES` names; ``concerns``: whether it speaks of a palette with
    such options of a request. ``forbids``: the device does not load or run it, else it costs time. ``what``: in
    words."""

    devices: tuple[str, ...]
    concerns: Callable[[Options], bool]
    forbids: bool
    what: str
    source: str


def _group(options: Options) -> int:
    return int(options.get("group_size", 0)) if options.get("granularity") == "per_grouped_channel" else 0


def _dim(options: Options) -> int:
    return int(options.get("cluster_dim", 1))


RULES = (
    DeviceRule(
        ("ane", "any"),
        lambda o: bool(o.get("enable_per_channel_scale")) and o.get("scale") != "fold",
        True,
        "a scale for each channel in an op after the table crashes loading on macOS 26",
        "coremltools pull request 2688, issues 2716 and 2860",
    ),
    DeviceRule(
        ("ane", "any"),
        lambda o: _dim(o) > 1 and _group(o) > 0,
        True,
        "tables of vectors run on the Neural Engine per tensor only",
        _FORGE,
    ),
    DeviceRule(
        ("ane", "any"),
        lambda o: _dim(o) > 1 and (1 << o["nbits"]) * _dim(o) > _MOST_VALUES,
        True,
        f"tables of vectors run on the Neural Engine up to {_MOST_VALUES} values (entries times vector)",
        _FORGE,
    ),
    DeviceRule(("ane",), lambda o: 0 < _group(o) < 8, True, "groups below 8 cost several times the latency", _OPT),
    DeviceRule(("ane", "any"), lambda o: o["nbits"] == 3, False, "3 bits run at the speed of 4", _FORGE),
    DeviceRule(("ane", "any"), lambda o: o["nbits"] == 6, False, "6 bits run at the speed of 8", _FORGE),
    DeviceRule(("ane", "any"), lambda o: _group(o) > 8, False, "groups cost some 20 % of time", _FORGE),
    DeviceRule(("ane", "any"), lambda o: _group(o) == 8, False, "groups of 8 cost some 47 % of time", _FORGE),
    DeviceRule(("any",), lambda o: 0 < _group(o) < 8, False, "groups below 8 cost several times the latency", _OPT),
)


def forbidden(options: Options, device: str) -> DeviceRule | None:
    """The rule by which ``device`` does not take a palette of a request with ``options``, None where it does."""
    return next((rule for rule in _met(options, device) if rule.forbids), None)


def costs(options: Options, device: str) -> list[DeviceRule]:
    """What such a palette costs on ``device``."""
    return [rule for rule in _met(options, device) if not rule.forbids]


def _met(options: Options, device: str) -> list[DeviceRule]:
    return [rule for rule in RULES if device in rule.devices and rule.concerns(options)]
