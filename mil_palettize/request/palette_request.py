"""What is asked for one weight, or for all that share an entry of a config: options by name, checked and frozen.

Every door ends here: objects of coremltools' classes, entries of YAML files, options of the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mil_palettize.algorithms.options import GRANULARITIES, LUT_DTYPES, SCALES
from mil_palettize.algorithms.registry import ALGORITHMS
from mil_palettize.errors import ConfigError, UnsupportedModeError
from mil_palettize.expressions.legal_nbits import LEGAL_NBITS

DEFAULT_WEIGHT_THRESHOLD = 2048
DEFAULT_GROUP_SIZE = 32
# Those of coremltools' OpPalettizerConfig, and ours.
DEFAULTS: dict[str, Any] = {
    "mode": "kmeans",
    "nbits": None,
    "lut_function": None,
    "granularity": GRANULARITIES[0],
    "group_size": DEFAULT_GROUP_SIZE,
    "channel_axis": None,
    "cluster_dim": 1,
    "enable_per_channel_scale": False,
    "num_kmeans_workers": 1,
    "weight_threshold": DEFAULT_WEIGHT_THRESHOLD,
    "scale": None,
    "lut_dtype": None,
}
# Where None is no value of its own: what it means follows from the other options.
LEFT_OUT_BY_NONE = ("granularity", "group_size", "channel_axis")


@dataclass(frozen=True)
class PaletteRequest:
    """One ``OpPalettizerConfig``, in lower case and checked. ``without_effect``: what was given and changes nothing,
    each with what it needs."""

    mode: str
    nbits: int | None
    granularity: str
    group_size: int
    channel_axis: int | None
    weight_threshold: int
    lut_function: Callable[..., Any] | None = field(default=None)
    cluster_dim: int = 1
    scale: str | None = None  # of each output channel: "op", "fold", or none
    lut_dtype: str | None = None
    without_effect: tuple[str, ...] = field(default=(), compare=False)

    @property
    def grouped(self) -> bool:
        return self.granularity != GRANULARITIES[0]

    def __str__(self) -> str:
        bits = f" {self.nbits} bit{'s' if self.nbits > 1 else ''}" if self.nbits else ""
        groups = f" in groups of {self.group_size}" if self.grouped else ""
        vectors = f" by vectors of {self.cluster_dim}" if self.cluster_dim > 1 else ""
        scale = f" with per-channel scale ({self.scale})" if self.scale else ""
        table = f" with {self.lut_dtype} entries" if self.lut_dtype else ""
        return f"{self.mode}{bits}{groups}{vectors}{scale}{table}"


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Without those that say None where that means left out, as coremltools' ``channel_axis`` has it."""
    return {name: value for name, value in options.items() if name not in LEFT_OUT_BY_NONE or value is not None}


def implied_granularity(options: Mapping[str, Any]) -> str:
    """What ``options`` without a granularity mean: groups where they say how many channels a group has, or along which
    axis. Beside ``cluster_dim`` the axis is that of the vectors."""
    given = _given(options)
    grouped = "group_size" in given or ("channel_axis" in given and given.get("cluster_dim", 1) == 1)
    return GRANULARITIES[grouped]


def palette_request(options: Mapping[str, Any], where: str = "") -> PaletteRequest:
    """``options``: values of those in :data:`DEFAULTS` that are given; a group's (:data:`LEFT_OUT_BY_NONE`) may be
    None, which is as if they were not. ``where``: the entry they are of, for errors.

    Raises ConfigError naming the option, its value and what is allowed; UnsupportedModeError for vectors of a mode that
    has none.
    """
    options = _given(options)
    problem = _problem({**DEFAULTS, **options})
    if problem:
        raise ConfigError(f"{where}: {problem}" if where else problem)
    given = {"granularity": implied_granularity(options), **options}
    full = {**DEFAULTS, **given}
    scale = full["scale"] or SCALES[0]
    request = PaletteRequest(
        mode=full["mode"].lower(),
        nbits=full["nbits"],
        granularity=full["granularity"],
        group_size=full["group_size"],
        channel_axis=full["channel_axis"],
        weight_threshold=full["weight_threshold"],
        lut_function=full["lut_function"],
        cluster_dim=full["cluster_dim"],
        scale=scale if full["enable_per_channel_scale"] else None,
        lut_dtype=full["lut_dtype"],
        without_effect=tuple(_without_effect(given, full)),
    )
    if request.cluster_dim > 1 and not ALGORITHMS[request.mode].has_vectors:
        others = " or ".join(name for name, other in ALGORITHMS.items() if other.has_vectors and other.selectable)
        raise UnsupportedModeError(
            f"{where}{': ' if where else ''}Vector palettization (cluster_dim > 1) doesn't support "
            f"{request.mode.upper()} mode. Use {others}"
        )
    return request


def _problem(options: Mapping[str, Any]) -> str:
    """What is wrong with them, "" when nothing is."""
    mode, nbits, axis = options["mode"], options["nbits"], options["channel_axis"]
    algorithm = ALGORITHMS.get(mode.lower()) if isinstance(mode, str) else None
    if algorithm is None:
        told = mode.lower() if isinstance(mode, str) else mode  # coremltools' classes keep it in capitals
        return f"mode is {told!r}, allowed are {tuple(ALGORITHMS)}"
    if not algorithm.chooses_nbits and not (_whole(nbits) and nbits in LEGAL_NBITS):
        return f"nbits is {nbits!r}, allowed are {LEGAL_NBITS}"
    if algorithm.chooses_nbits and nbits is not None:
        return f"nbits is {nbits!r}, but mode {mode!r} takes as many bits as the values need; leave it out"
    if algorithm.needs_function and not callable(options["lut_function"]):
        return f"mode {mode!r} needs a lut_function, which only the Python interface can be given"
    if options["granularity"] not in GRANULARITIES:
        return f"granularity is {options['granularity']!r}, allowed are {GRANULARITIES}"
    if not _whole(options["group_size"]):
        return f"group_size is {options['group_size']!r}, it must be a whole number of channels, 0 for all of them"
    if axis is not None and (not isinstance(axis, int) or isinstance(axis, bool)):
        return f"channel_axis is {axis!r}, it must be a whole number or None"
    if not _whole(options["weight_threshold"]):
        return (
            f"weight_threshold cannot be {options['weight_threshold']!r}, it is a number of elements, a whole number, "
            "0 or more"
        )
    if not _whole(options["cluster_dim"]) or options["cluster_dim"] < 1:
        return f"cluster_dim is {options['cluster_dim']!r}, it is 1 for scalars, 2 or more for vectors"
    return _problem_of_tables(options)


def _problem_of_tables(options: Mapping[str, Any]) -> str:
    if not isinstance(options["enable_per_channel_scale"], bool):
        return f"enable_per_channel_scale is {options['enable_per_channel_scale']!r}, allowed are True and False"
    if options["scale"] not in (None, *SCALES):
        return f"scale is {options['scale']!r}, allowed are {SCALES}"
    if options["lut_dtype"] not in (None, *LUT_DTYPES):
        return f"lut_dtype is {options['lut_dtype']!r}, allowed are {LUT_DTYPES}, or None for that of the weight"
    return ""


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _without_effect(given: Mapping[str, Any], full: Mapping[str, Any]) -> list[str]:
    """Options in ``given`` that nothing reads, as sentences."""
    grouped = full["granularity"] != GRANULARITIES[0]
    found = []
    if "group_size" in given and not grouped:
        found.append(f"group_size={given['group_size']!r} has no effect without granularity='{GRANULARITIES[1]}'")
    if given.get("channel_axis") is not None and not grouped and full["cluster_dim"] == 1:
        found.append(f"channel_axis={given['channel_axis']!r} has no effect without groups or vectors")
    if given.get("scale") is not None and not full["enable_per_channel_scale"]:
        found.append(f"scale={given['scale']!r} has no effect without enable_per_channel_scale=True")
    return found
