"""What the user asks for: coremltools' config objects and YAML, turned into one frozen type.

Precedence is coremltools': op name, then op type, then global; ``None`` means leave alone. Names may be those of
a constant or of an op, bare (every function) or ``function/name``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry
from coremltools.optimize.coreml import OpPalettizerConfig, OptimizationConfig

from mil_palettize.errors import ConfigError
from mil_palettize.weight_expr import LEGAL_NBITS

__all__ = [
    "OpPalettizerConfig",
    "OptimizationConfig",
    "PaletteRequest",
    "Requests",
    "load_config",
    "normalise",
]

DEFAULT_WEIGHT_THRESHOLD = 2048
LEVELS = ("name", "type", "global")
_WHOLE_NUMBERS = frozenset({"nbits", "group_size", "channel_axis", "cluster_dim", "weight_threshold"})


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

    @property
    def grouped(self) -> bool:
        return self.granularity == "per_grouped_channel"

    def __str__(self) -> str:
        bits = f" {self.nbits} bits" if self.nbits else ""
        groups = f" in groups of {self.group_size}" if self.grouped else ""
        vectors = f" by vectors of {self.cluster_dim}" if self.cluster_dim > 1 else ""
        return f"{self.mode}{bits}{groups}{vectors}"


@dataclass(frozen=True)
class Requests:
    """A whole ``OptimizationConfig``: requests, or None for "leave alone", by op name, by op type, and for the rest."""

    global_request: PaletteRequest | None
    by_type: Mapping[str, PaletteRequest | None]
    by_name: Mapping[str, PaletteRequest | None]

    @property
    def threshold(self) -> int:
        """Of the constants nothing is asked for: the global one, where there is one."""
        return self.global_request.weight_threshold if self.global_request else DEFAULT_WEIGHT_THRESHOLD

    def matching(self, function: str, *names: str) -> list[str]:
        """Entries of ``by_name`` that mean one of ``names``, what decides first: of the first name before the
        next, ``function/name`` before a bare name."""
        short = function.rpartition("/")[2]
        keys = (key for name in names for key in (f"{function}/{name}", f"{short}/{name}", name))
        return [key for key in dict.fromkeys(keys) if key in self.by_name]


def load_config(path: str | Path) -> OptimizationConfig:
    """The ``OptimizationConfig`` of a YAML file in coremltools' format.

    Raises ConfigError in one line for a missing file, bad YAML, or keys and values coremltools does not know.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        entries = yaml.load(text, _Loader)
        _check_shape(entries)
        return OptimizationConfig.from_dict(entries)
    except Exception as error:
        raise ConfigError(f"config {path} is not a coremltools OptimizationConfig: {_one_line(error)}") from error


class _Loader(yaml.SafeLoader):
    """Safe, and a key given twice is an error: YAML would take the last one silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise ConfigError(f"{key!r} is given {keys.count(key)} times, near line {node.start_mark.line + 1}")
        return super().construct_mapping(node, deep)


def _check_shape(entries: Any) -> None:
    """Raise ConfigError where coremltools would fail on a mapping that is none, or cut a number down."""
    if not isinstance(entries, dict):
        raise ConfigError("it must be a mapping with config_type and global_config, op_type_configs or op_name_configs")
    configs = {"global_config": entries.get("global_config")}
    for level in ("op_type_configs", "op_name_configs"):
        of_level = entries.get(level)
        configs |= of_level if isinstance(of_level, dict) else {}
    for name, config in configs.items():
        if config is None:
            continue
        if not isinstance(config, dict):
            raise ConfigError(f"{name} must be a mapping of options or null, got {config!r}")
        for option in _WHOLE_NUMBERS & config.keys():
            if config[option] is not None and type(config[option]) is not int:
                raise ConfigError(f"{option} of {name} must be a whole number, got {config[option]!r}")


def _one_line(error: BaseException) -> str:
    """The innermost messages of cattrs' exception groups, YAML's positions and plain errors, on one line."""
    inner = getattr(error, "exceptions", None)
    if inner:
        return "; ".join(_one_line(e) for e in inner)
    text = " ".join(str(error).split())
    if isinstance(error, AttributeError) and "has no attribute" in text:
        return f"unknown config_type {text.rpartition(' ')[2]}, use 'OpPalettizerConfig'"
    return text or type(error).__name__


def normalise(config: OptimizationConfig) -> Requests:
    """``config`` checked and frozen. Raises ConfigError naming the entry and what is allowed."""
    if not isinstance(config, OptimizationConfig):
        raise ConfigError(f"config must be an OptimizationConfig, got {type(config).__name__}")
    if config._op_selector is not None:
        raise ConfigError(
            "op_selector of ct.compression_utils is not supported; use op_type_configs or op_name_configs"
        )
    by_type = {str(k): _request(v, f"op_type_configs[{k!r}]") for k, v in (config.op_type_configs or {}).items()}
    by_name = {str(k): _request(v, f"op_name_configs[{k!r}]") for k, v in (config.op_name_configs or {}).items()}
    return Requests(_request(config.global_config, "global_config"), by_type, by_name)


def _request(config: Any, where: str) -> PaletteRequest | None:
    if config is None:
        return None
    if not isinstance(config, OpPalettizerConfig):
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
    )
    _check(request, config, where)
    return request


def _check(request: PaletteRequest, config: OpPalettizerConfig, where: str) -> None:
    """What coremltools' own validators let through (attributes can be set after construction)."""
    problem = ""
    if request.mode in ("kmeans", "uniform") and request.nbits not in LEGAL_NBITS:
        problem = f"nbits is {request.nbits}, allowed are {LEGAL_NBITS}"
    elif not _whole(request.group_size):
        problem = f"group_size is {request.group_size!r}, it must be a whole number of channels, 0 for all of them"
    elif request.channel_axis is not None and not isinstance(request.channel_axis, int):
        problem = f"channel_axis is {request.channel_axis!r}, it must be a whole number or None"
    elif not _whole(request.weight_threshold):
        problem = f"weight_threshold cannot be {request.weight_threshold!r}, it is a number of elements"
    elif not _whole(request.cluster_dim) or request.cluster_dim < 1:
        problem = f"cluster_dim is {request.cluster_dim!r}, it is 1 for scalars, 2 or more for vectors"
    elif request.cluster_dim > 1 and request.mode == "uniform":
        problem = "Vector palettization (cluster_dim > 1) doesn't support UNIFORM mode: use kmeans, unique or custom"
    elif config.enable_per_channel_scale:
        problem = (
            "enable_per_channel_scale is set; no scales are written here: use granularity='per_grouped_channel' "
            "with group_size=1, a palette for each channel"
        )
    if problem:
        raise ConfigError(f"{where}: {problem}")


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
