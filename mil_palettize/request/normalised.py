"""A config turned into one frozen, checked type.

Precedence is coremltools': op name, then op type, then global; ``None`` means leave alone. Names may be those of
a constant, of an op or of what an op gives, bare (every function) or ``function/name``; else of a module of the network
(``request/module_names.py``); or patterns (``request/patterns.py``). A name that is written out wins over modules, of
these the innermost, and modules win over patterns, of these the first.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mil_palettize.errors import ConfigError
from mil_palettize.program.opsets.known_ops import ADDED_OPS
from mil_palettize.request.importance import Importance, checked_importance
from mil_palettize.request.near_names import near_names
from mil_palettize.request.palette_request import (
    DEFAULT_GROUP_SIZE,
    DEFAULT_WEIGHT_THRESHOLD,
    DEFAULTS,
    PaletteRequest,
    palette_request,
)
from mil_palettize.request.patterns import check_pattern, is_pattern, matches

if TYPE_CHECKING:
    from coremltools.optimize.coreml import OptimizationConfig


@dataclass(frozen=True)
class Requests:
    """A whole ``OptimizationConfig``: requests, or None for "leave alone", by op name, by op type, and for the rest.

    ``joint``: also of what sparse and quantized constants hold. ``importance``: of the elements of constants, by the
    constants' names. ``modules``: entries of ``by_name`` that are names of modules of a certain model, what decides
    first in front, each with the keys (``function/name``) of the constants that are in it; ``exported``: the constants
    of that model are called as torch.export calls them. ``planned``: ``by_name`` is
    of a plan, and nobody wrote it: why it leaves entries of ``by_name`` and other constants (``function/name``) alone,
    in sentences; None where it is not so.
    """

    global_request: PaletteRequest | None
    by_type: Mapping[str, PaletteRequest | None]
    by_name: Mapping[str, PaletteRequest | None]
    joint: bool = False
    importance: Mapping[str, Importance] = field(default_factory=dict)
    modules: Mapping[str, frozenset[str]] = field(default_factory=dict)
    exported: bool = False
    planned: Mapping[str, str] | None = field(default=None, compare=False)

    @property
    def threshold(self) -> int:
        """Of the constants nothing is asked for: the global one, where there is one."""
        return self.global_request.weight_threshold if self.global_request else DEFAULT_WEIGHT_THRESHOLD

    @property
    def without_effect(self) -> list[str]:
        """Options that were given and change nothing, each with its entry."""
        levels = (("op_type_configs", self.by_type), ("op_name_configs", self.by_name))
        entries = [("global_config", self.global_request)]
        entries += [(f"{level}[{name!r}]", request) for level, of in levels for name, request in of.items()]
        return [f"{where}: {told}" for where, request in entries if request for told in request.without_effect]

    def __post_init__(self) -> None:
        for name in self.by_name:
            if is_pattern(name):
                check_pattern(name, "op_name_configs")

    def matching(self, function: str, *names: str) -> list[str]:
        """Entries of ``by_name`` that mean one of ``names``, what decides first: of the first name before the
        next, ``function/name`` before a bare name; then modules, then patterns."""
        keys = _keys(function, names)
        modules = [entry for entry, of in self.modules.items() if not of.isdisjoint(keys)]
        patterns = [entry for entry in self._patterns if entry not in keys and matches(entry, keys, self.exported)]
        return [*(key for key in keys if key in self.by_name), *modules, *patterns]

    def source_of(self, entry: str) -> str:
        """What messages call an entry of ``by_name``."""
        return "the plan" if self.planned is not None else f"op_name_configs[{entry!r}]"

    def reason(self, name: str) -> str:
        """Why a plan leaves alone what is called so, "" where it does not tell, or there is none."""
        return (self.planned or {}).get(name, "")

    def is_written_out(self, entry: str) -> bool:
        """Whether an entry of ``by_name`` is for what is called so, and not for what it matches or contains."""
        return entry not in self.modules and not is_pattern(entry)

    def importance_keys(self, function: str, name: str) -> list[str]:
        """Entries of ``importance`` that mean a constant, what decides first."""
        return [key for key in _keys(function, (name,)) if key in self.importance]

    @cached_property
    def _patterns(self) -> list[str]:
        return [entry for entry in self.by_name if is_pattern(entry)]


def _keys(function: str, names: Iterable[str]) -> list[str]:
    """What a config may call each of ``names`` of a function by, what decides first."""
    short = function.rpartition("/")[2]
    return list(dict.fromkeys(k for name in names for k in (f"{function}/{name}", f"{short}/{name}", name)))


def normalise(
    config: OptimizationConfig | Requests, joint_compression: bool = False, importance: object = None
) -> Requests:
    """``config`` checked and frozen, with the ``importance`` of elements, arrays by names of constants or None.

    ``config``: an ``OptimizationConfig`` of coremltools or ours, or what a file or the command line asks for. Raises
    ConfigError naming the entry and what is allowed.
    """
    check_joint(joint_compression)
    weighed = checked_importance(importance)
    if isinstance(config, Requests):
        return replace(config, joint=joint_compression, importance=weighed)
    coreml = _coreml()
    if coreml is None or not isinstance(config, coreml.OptimizationConfig):
        made = "from_yaml reads one from a file, from_dict from a mapping"
        raise ConfigError(f"config must be an OptimizationConfig, got {type(config).__name__}; {made}")
    if config._op_selector is not None:
        raise ConfigError(
            "op_selector of ct.compression_utils is not supported; use op_type_configs or op_name_configs"
        )
    by_type = {str(k): _request(v, f"op_type_configs[{k!r}]") for k, v in (config.op_type_configs or {}).items()}
    by_name = {str(k): _request(v, f"op_name_configs[{k!r}]") for k, v in (config.op_name_configs or {}).items()}
    return Requests(_request(config.global_config, "global_config"), by_type, by_name, joint_compression, weighed)


def check_joint(joint_compression: object) -> None:
    """Raise ConfigError, with coremltools' sentence, unless it is True or False."""
    if not isinstance(joint_compression, bool):
        raise ConfigError(f"joint_compression only supports bool, but got {type(joint_compression)}")


def _request(config: Any, where: str) -> PaletteRequest | None:
    if config is None:
        return None
    coreml = _coreml()
    if coreml is None or not isinstance(config, coreml.OpPalettizerConfig):
        raise ConfigError(
            f"palettize_weights only accept OpPalettizerConfig type config. Got {type(config).__name__}. ({where})"
        )
    # Attributes can be set after construction, to what coremltools' own validators would refuse.
    options = {name: getattr(config, name) for name in DEFAULTS if hasattr(config, name)}
    if config.granularity is not None:
        options["granularity"] = getattr(config.granularity, "name", str(config.granularity)).lower()
    if options["group_size"] == DEFAULT_GROUP_SIZE:  # which nobody has to have asked for
        del options["group_size"]
    return palette_request(options, where)


def _coreml() -> Any:
    """``coremltools.optimize.coreml``, where somebody has imported it: nobody else has a config of its classes."""
    return sys.modules.get("coremltools.optimize.coreml")


def known_op_types() -> frozenset[str]:
    """Every op type of an opset, and those that were added to coremltools' registry, where that is imported."""
    registry = getattr(sys.modules.get("coremltools.converters.mil.mil.ops.registry"), "SSAOpRegistry", None)
    return frozenset[str]().union(*ADDED_OPS.values(), registry.custom_ops if registry is not None else ())


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
