"""What the user asks for: coremltools' config classes with the options it lacks, and its YAML.

A file with coremltools' keys alone loads in both; ``scale`` and ``lut_dtype`` are this library's.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import attrs
import yaml
from coremltools.optimize import coreml

from mil_palettize.algorithms.options import LUT_DTYPES, SCALES
from mil_palettize.algorithms.registry import ALGORITHMS
from mil_palettize.errors import ConfigError

_WHOLE_NUMBERS = frozenset({"nbits", "group_size", "channel_axis", "cluster_dim", "weight_threshold"})
_OWN_OPTIONS = ("scale", "lut_dtype")
_define: Any = attrs.define  # known as such, type checkers would miss the fields of coremltools' untyped classes


@_define
class OpPalettizerConfig(coreml.OpPalettizerConfig):
    """coremltools' ``OpPalettizerConfig`` and two options more, which coremltools itself ignores.

    ``scale``: what ``enable_per_channel_scale`` writes. "op": a scale for each output channel, in an op after the
    table; "fold": a table for each output channel instead, in which the scales are contained. ``lut_dtype``: "int8" or
    "uint8" for quantized table entries (iOS18), None for the weight's own type. ``mode``: any algorithm of ours. Raises
    ValueError for other values.
    """

    # Where coremltools' validator looks up what a mode may be, and what its message lists.
    _WEIGHT_PALETTIZATION_MODES = property(lambda self: tuple(name.upper() for name in ALGORITHMS))

    scale: str = attrs.field(default="op", validator=attrs.validators.in_(SCALES))
    lut_dtype: str | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.in_(LUT_DTYPES))
    )

    def __attrs_post_init__(self) -> None:
        """What coremltools checks of the modes it knows, of all others."""
        super().__attrs_post_init__()
        chooses = ALGORITHMS[self.mode.lower()].chooses_nbits
        if chooses != (self.nbits is None):
            must = "must NOT be provided" if chooses else "must be provided"
            raise ValueError(f'"nbits" {must} for {self.mode} mode')


class OptimizationConfig(coreml.OptimizationConfig):
    """coremltools' ``OptimizationConfig``, whose ``from_dict`` and ``from_yaml`` know this library's options."""

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any]) -> OptimizationConfig:
        """As coremltools' own, with ``scale`` and ``lut_dtype``; ``config_dict`` stays as it is.

        Raises ValueError (KeyError and others, as coremltools) for what it does not know.
        """
        entries = copy.deepcopy(config_dict)
        own = {where: _taken(entry) for where, entry in _entries(entries) if _is_palettizer(entry, entries)}
        plain = coreml.OptimizationConfig.from_dict(entries)
        return cls(
            _extended(plain.global_config, own.get(("global_config", ""), {})),
            *(
                {name: _extended(of, own.get((level, name), {})) for name, of in getattr(plain, level).items()}
                for level in ("op_type_configs", "op_name_configs")
            ),
        )


def _entries(entries: Any) -> list[tuple[tuple[str, str], dict[str, Any]]]:
    """((level, name), options) of every config that a mapping holds."""
    if not isinstance(entries, dict):
        return []
    found = [(("global_config", ""), entries.get("global_config"))]
    for level in ("op_type_configs", "op_name_configs"):
        of_level = entries.get(level)
        found += [((level, name), of) for name, of in of_level.items()] if isinstance(of_level, dict) else []
    return [(where, of) for where, of in found if isinstance(of, dict)]


def _is_palettizer(entry: dict[str, Any], entries: dict[str, Any]) -> bool:
    return entry.get("config_type", entries.get("config_type")) == coreml.OpPalettizerConfig.__name__


def _taken(entry: dict[str, Any]) -> dict[str, Any]:
    """This library's options, removed from ``entry``; a mode that coremltools lacks is replaced there by one that takes
    the same options."""
    own = {option: entry.pop(option) for option in _OWN_OPTIONS if option in entry}
    mode = entry.get("mode")
    algorithm = ALGORITHMS.get(mode.lower()) if isinstance(mode, str) else None
    if algorithm is not None and algorithm.name.upper() not in coreml.OpPalettizerConfig._WEIGHT_PALETTIZATION_MODES:
        own["mode"] = mode
        entry["mode"] = "unique" if algorithm.chooses_nbits else "kmeans"
    return own


def _extended(config: Any, own: dict[str, Any]) -> Any:
    """coremltools' config object as this library's, with its ``own`` options."""
    if not isinstance(config, coreml.OpPalettizerConfig):
        return config
    options = {field.name: getattr(config, field.name) for field in attrs.fields(coreml.OpPalettizerConfig)}
    return OpPalettizerConfig(**options | own)


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
