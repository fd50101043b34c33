"""A config turned into one frozen, checked type.

Precedence is coremltools': op name, then op type, then global; ``None`` means leave alone. Names may be those of
a constant or of an op, bare (every function) or ``function/name``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry
from coremltools.optimize import coreml

from mil_palettize.algorithms.options import GRANULARITIES, LUT_DTYPES, SCALES
from mil_palettize.algorithms.registry import ALGORITHMS
from mil_palettize.errors import ConfigError, UnsupportedModeError
from mil_palettize.expressions.legal_nbits import LEGAL_NBITS
from mil_palettize.request.importance import Importance, checked_importance

DEFAULT_WEIGHT_THRESHOLD = 2048
LEVELS = ("name", "type", "global")


@dataclass(frozen=True)
class PaletteRequest:
    """One ``OpPalettizerConfig``, in lower case and checked."""

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

    @property
    def grouped(self) -> bool:
        return self.granularity != GRANULARITIES[0]

    def __str__(self) -> str:
        bits = f" {self.nbits} bits" if self.nbits else ""
        groups = f" in groups of {self.group_size}" if self.grouped else ""
        vectors = f" by vectors of {self.cluster_dim}" if self.cluster_dim > 1 else ""
        scale = f" with per-channel scale ({self.scale})" if self.scale else ""
        table = f" with {self.lut_dtype} entries" if self.lut_dtype else ""
        return f"{self.mode}{bits}{groups}{vectors}{scale}{table}"


@dataclass(frozen=True)
class Requests:
    """A whole ``OptimizationConfig``: requests, or None for "leave alone", by op name, by op type, and for the rest.

    ``joint``: also of what sparse and quantized constants hold. ``importance``: of the elements of constants, by the
    constants' names.
    """

    global_request: PaletteRequest | None
    by_type: Mapping[str, PaletteRequest | None]
    by_name: Mapping[str, PaletteRequest | None]
    joint: bool = False
    importance: Mapping[str, Importance] = field(default_factory=dict)

    @property
    def threshold(self) -> int:
        """Of the constants nothing is asked for: the global one, where there is one."""
        return self.global_request.weight_threshold if self.global_request else DEFAULT_WEIGHT_THRESHOLD

    def matching(self, function: str, *names: str) -> list[str]:
        """Entries of ``by_name`` that mean one of ``names``, what decides first: of the first name before the
        next, ``function/name`` before a bare name."""
        return _matching(self.by_name, function, names)

    def importance_keys(self, function: str, name: str) -> list[str]:
        """Entries of ``importance`` that mean a constant, what decides first."""
        return _matching(self.importance, function, (name,))


def _matching(entries: Collection[str], function: str, names: Iterable[str]) -> list[str]:
    short = function.rpartition("/")[2]
    keys = (key for name in names for key in (f"{function}/{name}", f"{short}/{name}", name))
    return [key for key in dict.fromkeys(keys) if key in entries]


def normalise(
    config: coreml.OptimizationConfig, joint_compression: bool = False, importance: object = None
) -> Requests:
    """``config`` checked and frozen, with the ``importance`` of elements, arrays by names of constants or None.

    Raises ConfigError naming the entry and what is allowed.
    """
    if not isinstance(config, coreml.OptimizationConfig):
        raise ConfigError(f"config must be an OptimizationConfig, got {type(config).__name__}")
    check_joint(joint_compression)
    if config._op_selector is not None:
        raise ConfigError(
            "op_selector of ct.compression_utils is not supported; use op_type_configs or op_name_configs"
        )
    by_type = {str(k): _request(v, f"op_type_configs[{k!r}]") for k, v in (config.op_type_configs or {}).items()}
    by_name = {str(k): _request(v, f"op_name_configs[{k!r}]") for k, v in (config.op_name_configs or {}).items()}
    weighed = checked_importance(importance)
    return Requests(_request(config.global_config, "global_config"), by_type, by_name, joint_compression, weighed)


def check_joint(joint_compression: object) -> None:
    """Raise ConfigError, with coremltools' sentence, unless it is True or False."""
    if not isinstance(joint_compression, bool):
        raise ConfigError(f"joint_compression only supports bool, but got {type(joint_compression)}")


def _request(config: Any, where: str) -> PaletteRequest | None:
    if config is None:
        return None
    if not isinstance(config, coreml.OpPalettizerConfig):
        raise ConfigError(
            f"palettize_weights only accept OpPalettizerConfig type config. Got {type(config).__name__}. ({where})"
        )
    request = PaletteRequest(
        mode=config.mode.lower(),
        nbits=config.nbits,
        granularity=config.granularity.name.lower(),
        group_size=config.group_size,
        channel_axis=config.channel_axis,
        weight_threshold=config.weight_threshold,
        lut_function=config.lut_function,
        cluster_dim=config.cluster_dim,
        scale=getattr(config, "scale", "op") if config.enable_per_channel_scale else None,
        lut_dtype=getattr(config, "lut_dtype", None),
    )
    _check(request, where)
    return request


def _check(request: PaletteRequest, where: str) -> None:
    """What coremltools' own validators let through (attributes can be set after construction)."""
    problem = ""
    algorithm = ALGORITHMS.get(request.mode)
    if algorithm is None:
        problem = f"mode is {request.mode!r}, allowed are {tuple(ALGORITHMS)}"
    elif not algorithm.chooses_nbits and request.nbits not in LEGAL_NBITS:
        problem = f"nbits is {request.nbits}, allowed are {LEGAL_NBITS}"
    elif not _whole(request.group_size):
        problem = f"group_size is {request.group_size!r}, it must be a whole number of channels, 0 for all of them"
    elif request.channel_axis is not None and not isinstance(request.channel_axis, int):
        problem = f"channel_axis is {request.channel_axis!r}, it must be a whole number or None"
    elif not _whole(request.weight_threshold):
        problem = f"weight_threshold cannot be {request.weight_threshold!r}, it is a number of elements"
    elif not _whole(request.cluster_dim) or request.cluster_dim < 1:
        problem = f"cluster_dim is {request.cluster_dim!r}, it is 1 for scalars, 2 or more for vectors"
    elif request.scale not in (None, *SCALES):
        problem = f"scale is {request.scale!r}, allowed are {SCALES}"
    elif request.lut_dtype not in (None, *LUT_DTYPES):
        problem = f"lut_dtype is {request.lut_dtype!r}, allowed are {LUT_DTYPES}, or None for that of the weight"
    if problem:
        raise ConfigError(f"{where}: {problem}")
    if request.cluster_dim > 1 and not ALGORITHMS[request.mode].has_vectors:
        others = " or ".join(name for name, other in ALGORITHMS.items() if other.has_vectors and other.selectable)
        raise UnsupportedModeError(
            f"{where}: Vector palettization (cluster_dim > 1) doesn't support {request.mode.upper()} mode. Use {others}"
        )


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def known_op_types() -> frozenset[str]:
    """Every op type of coremltools' registry."""
    return frozenset(SSAOpRegistry.core_ops) | frozenset(SSAOpRegistry.custom_ops)


def check_op_types(requests: Requests, in_model: Iterable[str]) -> list[str]:
    """Notes on op types the model lacks. Raises ConfigError for a type that neither it nor coremltools knows."""
    present = set(in_model)
    notes = []
    for op_type in requests.by_type:
        if op_type == "const" or op_type.startswith("constexpr_"):
            raise ConfigError(
                f"op_type_configs[{op_type!r}]: const ops cannot be set by the `set_op_type` function. "
                "Please use `set_global`, or the type of the op that reads the constant"
            )
        if op_type in present:
            continue
        if op_type not in known_op_types():
            near = near_names(op_type, known_op_types() | present)
            raise ConfigError(f"op_type_configs[{op_type!r}]: no such op type{near}")
        notes.append(f"op_type_configs[{op_type!r}]: this model has no {op_type}")
    return notes


def near_names(name: str, names: Iterable[str]) -> str:
    """``"; did you mean 'a', 'b'?"`` or ``""``."""
    close = difflib.get_close_matches(name, sorted(set(names)), n=3, cutoff=0.6)
    return f"; did you mean {', '.join(map(repr, close))}?" if close else ""
