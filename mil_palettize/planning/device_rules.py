"""What Core ML's devices are known to run, and how fast: one table, each line with its source. Nothing here was
measured by this library, which runs no device; what no line speaks of is unknown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from mil_palettize.planning.device_facts import (
    CONVOLUTIONS,
    Facts,
    ModelFacts,
    OpFacts,
    PaletteFacts,
    StateFacts,
    asked_palette,
)

ENGINES = ("iphone-ane", "mac-ane")
_ALL = (*ENGINES, "gpu", "cpu")
# What a user may name, and the devices that are meant by it.
DEVICES: Mapping[str, tuple[str, ...]] = {"any": _ALL, "ane": ENGINES, **{device: (device,) for device in _ALL}}

# What comes of it, the worst first. "fails": does not load, or gives wrong results; "falls back": another device runs
# it; "much slower": by more than twice; "no gain": in time, where there might be one; "runs": as it is stored.
Consequence = Literal["fails", "falls back", "much slower", "slower", "no gain", "runs"]
CONSEQUENCES: tuple[Consequence, ...] = ("fails", "falls back", "much slower", "slower", "no gain", "runs")
Certainty = Literal["documented", "measured by others", "hypothesis"]

_FORGE = "Anemll/anemll-forge, docs/history/VECTOR_LUT_README.md (M6, macOS 27)"
_FORGE_NOTES = "Anemll/anemll-forge, docs/history (M6, M5 Max, macOS 27)"
_AUTHORING = "apple/coreai-models, skills/model-authoring, neural_engine_rules.md (of Core AI)"
_ANE_GUIDE = "sbryngelson/ane-guide (M1, by compiling; arXiv 2606.22283)"
_OPT = "coremltools' guide, Performance, OPT-1.3B table"
_GUIDE = "https://apple.github.io/coremltools/docs-guides/source/"
_ISSUES = "https://github.com/apple/coremltools/issues/"
_MOST_VALUES = 256
_LONGEST_VECTOR = 16
_MOST_STRIDE = 2
_WIDEST, _HIGHEST = 13, 29  # kernels
_STATE_MULTIPLE = 32
_LARGE_TABLE = 16384  # rows; the sources say "large"
_RECURRENT = ("lstm", "gru", "rnn")
_FROM_DECLARED = (
    "cast",
    "read_state",
    "write_state",
)  # their type is that of an input or output, not of the arithmetic

F = TypeVar("F", bound=Facts)
Options = Mapping[str, Any]


@dataclass(frozen=True)
class DeviceRule:
    """``name``: for scripts. ``devices``: it holds for. ``concerns``: whether it speaks of a palette, op, state or
    model. ``what``: in words; ``since``, ``until``: OS or chip, "" where the source names none."""

    name: str
    devices: tuple[str, ...]
    concerns: Callable[[Facts], bool]
    consequence: Consequence
    what: str
    source: str
    sure: Certainty
    since: str = ""
    until: str = ""


def _of(kind: type[F], condition: Callable[[F], bool]) -> Callable[[Facts], bool]:
    return lambda facts: isinstance(facts, kind) and condition(facts)


def _palette(condition: Callable[[PaletteFacts], bool]) -> Callable[[Facts], bool]:
    return _of(PaletteFacts, condition)


def _op(condition: Callable[[OpFacts], bool]) -> Callable[[Facts], bool]:
    return _of(OpFacts, condition)


def _model(condition: Callable[[ModelFacts], bool]) -> Callable[[Facts], bool]:
    return _of(ModelFacts, condition)


def _is_smooth(number: int) -> bool:
    """Whether it has no other prime factors than 2 and 3."""
    for prime in (2, 3):
        while number > 1 and number % prime == 0:
            number //= prime
    return number <= 1


def _is_large(kernel: tuple[int, ...]) -> bool:
    """The width is the last of its sizes."""
    return bool(kernel) and (kernel[-1] > _WIDEST or max(kernel[:-1], default=1) > _HIGHEST)


RULES: tuple[DeviceRule, ...] = (
    DeviceRule(
        "scale-after-table", ENGINES, _palette(lambda p: p.scaled), "fails",
        "a scale for each channel in an op after the table crashes loading on macOS 26",
        "coremltools pull request 2688, issues 2716 and 2860", "measured by others", "macOS 26", "macOS 27 (M6)",
    ),
    DeviceRule(
        "quantized-activations", ENGINES, _palette(lambda p: p.quantized_model), "fails",
        "palettes beside quantized activations (W8A8) fail to compile for the Neural Engine",
        _FORGE_NOTES, "measured by others",
    ),
    DeviceRule(
        "vectors-in-groups", ENGINES, _palette(lambda p: p.cluster_dim > 1 and p.group_size > 0), "falls back",
        "tables of vectors run on the Neural Engine per tensor only", _FORGE, "measured by others",
    ),
    DeviceRule(
        "vectors-across", ENGINES, _palette(lambda p: p.cluster_dim > 1 and p.across), "falls back",
        "vectors run on the Neural Engine along output channels only", _FORGE, "measured by others",
    ),
    DeviceRule(
        "long-vectors", ENGINES, _palette(lambda p: p.cluster_dim > _LONGEST_VECTOR), "falls back",
        f"vectors run on the Neural Engine up to {_LONGEST_VECTOR} elements", _FORGE, "measured by others",
    ),
    DeviceRule(
        "large-tables-of-vectors", ENGINES,
        _palette(lambda p: p.cluster_dim > 1 and (1 << p.nbits) * p.cluster_dim > _MOST_VALUES), "falls back",
        f"tables of vectors run on the Neural Engine up to {_MOST_VALUES} values (entries times vector)",
        _FORGE, "measured by others",
    ),
    DeviceRule(
        "groups-across", ENGINES, _palette(lambda p: p.cluster_dim == 1 and p.group_size > 0 and p.across),
        "falls back", "groups and scales along input channels leave the Neural Engine",
        _FORGE_NOTES, "measured by others",
    ),
    DeviceRule(
        "small-groups", ENGINES, _palette(lambda p: 0 < p.group_size < 8), "much slower",
        "groups below 8 cost several times the latency", _OPT, "documented", "iOS18, macOS15",
    ),
    DeviceRule(
        "groups-of-8", ENGINES, _palette(lambda p: p.group_size == 8), "slower",
        "groups of 8 cost some 47 % of time", _FORGE_NOTES, "measured by others", "iOS18, macOS15",
    ),
    DeviceRule(
        "groups", ENGINES, _palette(lambda p: p.group_size > 8), "slower",
        "groups cost some 20 % of time", _FORGE_NOTES, "measured by others", "iOS18, macOS15",
    ),
    DeviceRule(
        "3-bits", ENGINES, _palette(lambda p: p.nbits == 3), "no gain",
        "3 bits run at the speed of 4", _FORGE, "measured by others",
    ),
    DeviceRule(
        "6-bits", ENGINES, _palette(lambda p: p.nbits == 6), "no gain",
        "6 bits run at the speed of 8", _FORGE, "measured by others",
    ),
    DeviceRule(
        "scalar-table", ENGINES, _palette(lambda p: p.cluster_dim == 1 and not p.scaled and not p.across), "runs",
        "tables of scalars are decoded on the Neural Engine as they are stored", _FORGE, "measured by others",
    ),
    DeviceRule(
        "vectors", ENGINES,
        _palette(lambda p: 1 < p.cluster_dim <= _LONGEST_VECTOR and not (p.group_size or p.scaled or p.across)), "runs",
        "tables of vectors are decoded on the Neural Engine as they are stored", _FORGE, "measured by others", "M6",
    ),
    DeviceRule(
        "table-elsewhere", ("gpu", "cpu"), _palette(lambda p: True), "no gain",
        "the package is smaller; that time is won, by decoding while computing, is likely on the Neural Engine",
        _GUIDE + "opt-palettization-perf.html", "documented", "iOS17, macOS14",
    ),
    DeviceRule(
        "float32", ENGINES, _op(lambda o: o.dtype == "fp32" and o.op_type not in _FROM_DECLARED), "falls back",
        "ops that are typed float32 run on GPU and CPU", _GUIDE + "typed-execution-example.html", "documented",
    ),
    DeviceRule(
        "recurrent", ENGINES, _op(lambda o: o.op_type in _RECURRENT), "falls back",
        "recurrent ops do not run on the Neural Engine", _ISSUES + "1780", "documented",
    ),
    DeviceRule(
        "while-loop", (*ENGINES, "gpu"), _op(lambda o: o.op_type == "while_loop"), "falls back",
        "loops ran on the CPU only", _ISSUES + "2208", "measured by others",
    ),
    DeviceRule(
        "stride", ENGINES, _op(lambda o: o.palettized and max(o.strides, default=1) > _MOST_STRIDE), "falls back",
        f"of convolutions whose kernel is a palette the Neural Engine takes few strides above {_MOST_STRIDE}",
        _AUTHORING, "documented",
    ),
    DeviceRule(
        "odd-stride", ENGINES,
        _op(lambda o: o.op_type in CONVOLUTIONS and not all(map(_is_smooth, o.strides))), "slower",
        "strides with other prime factors than 2 and 3 are done in steps", f"{_AUTHORING}; {_ANE_GUIDE}, chapter 17",
        "documented",
    ),
    DeviceRule(
        "large-kernel", ENGINES, _op(lambda o: _is_large(o.kernel)), "falls back",
        f"kernels wider than {_WIDEST} or higher than {_HIGHEST} do not compile for the Neural Engine",
        f"{_ANE_GUIDE}, chapter 17; https://github.com/hollance/neural-engine/issues/1", "measured by others",
    ),
    DeviceRule(
        "3d-convolution", ENGINES, _op(lambda o: len(o.kernel) > 2), "falls back",
        "convolutions over three axes do not compile for the Neural Engine",
        f"{_ANE_GUIDE}, chapter 8", "measured by others",
    ),
    DeviceRule(
        "dilation", ENGINES, _op(lambda o: max(o.dilations, default=1) > 1), "slower",
        "dilated convolutions take a slower path", f"{_FORGE}; {_AUTHORING}", "measured by others",
    ),
    DeviceRule(
        "large-gather", ENGINES, _op(lambda o: o.table_rows > _LARGE_TABLE), "falls back",
        "look-ups in large tables run on the CPU",
        "compute plan of a Whisper decoder (51,865 rows), "
        "https://huggingface.co/mickekringai/kb-whisper-coreml/blob/main/base/TextDecoder.mlcomputeplan.json; "
        + _ISSUES + "1103", "measured by others",
    ),
    DeviceRule(
        "depthwise", ENGINES, _op(lambda o: o.op_type == "conv" and 1 < o.groups == o.channels), "no gain",
        "depthwise convolutions are not limited by reading weights: palettes make them smaller, not faster",
        f"{_AUTHORING}: what computing limits gains no time; of depthwise ones that is supposed", "hypothesis",
    ),
    DeviceRule(
        "state-size", ENGINES,
        _of(StateFacts, lambda s: bool(s.shape) and s.shape[-1] % _STATE_MULTIPLE != 0), "fails",
        f"states whose last dimension is no multiple of {_STATE_MULTIPLE} failed on the Neural Engine",
        _ISSUES + "2631", "measured by others", "macOS 15",
    ),
    DeviceRule(
        "range-of-shapes", ENGINES, _model(lambda m: m.ranges), "falls back",
        "inputs with a range of sizes run on the Neural Engine at the default size only; enumerated shapes run there",
        "an Apple engineer, https://developer.apple.com/forums/thread/724930; " + _ISSUES + "2370", "documented",
    ),
    DeviceRule(
        "2-gigabytes", ENGINES, _model(lambda m: m.weight_nbytes > 1 << 31), "fails",
        "the Neural Engine takes weight files of up to 2 GiB",
        "coremltools pull request 2593, issue 1807", "measured by others",
    ),
    DeviceRule(
        "1-gigabyte", ("iphone-ane",), _model(lambda m: 10**9 < m.weight_nbytes <= 1 << 31), "fails",
        "on iOS the Neural Engine needs models to be split into parts of less than 1 GB",
        "apple/ml-stable-diffusion, README, --chunk-unet", "documented",
    ),
)  # fmt: skip


def met(facts: Facts, device: str) -> list[DeviceRule]:
    """The rules that speak of ``facts`` on ``device``, one of :data:`DEVICES`."""
    meant = DEVICES[device]
    return [rule for rule in RULES if not set(meant).isdisjoint(rule.devices) and rule.concerns(facts)]


def forbidden(options: Options, device: str) -> DeviceRule | None:
    """The rule by which a plan for ``device`` leaves a palette with ``options`` out, None where it does not: what fails
    or falls back, and what is much slower where that very device is asked for."""
    rules = met(asked_palette(options), device)
    return next((rule for rule in rules if rule.consequence in _left_out(device)), None)


def costs(options: Options, device: str) -> list[DeviceRule]:
    """What such a palette costs on ``device``, of what a plan does not leave out; what is so of every palette, as on
    other devices than the Neural Engine, is not told."""
    rules = [rule for rule in met(asked_palette(options), device) if not set(ENGINES).isdisjoint(rule.devices)]
    return [rule for rule in rules if rule.consequence not in ("runs", *_left_out(device))]


def _left_out(device: str) -> tuple[Consequence, ...]:
    return ("fails", "falls back") if device == "any" else ("fails", "falls back", "much slower")


def rule_named(name: str) -> DeviceRule:
    return next(rule for rule in RULES if rule.name == name)


def sentence(rule: DeviceRule) -> str:
    """A rule with its source, and since and until when."""
    times = [f"since {rule.since}" if rule.since else "", f"until {rule.until}" if rule.until else ""]
    return f"{rule.what} ({', '.join(filter(None, [rule.sure, *times, rule.source]))})"
