"""Configs as nested mappings, of YAML files for one: every key known, every entry with its place. No coremltools.

The form is that of coremltools' ``OptimizationConfig.from_dict``, with this library's options besides.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mil_palettize.errors import ConfigError, PackageError, UnsupportedModeError
from mil_palettize.package.links import refuse_pointer
from mil_palettize.request.near_names import near_names
from mil_palettize.request.normalised import Requests
from mil_palettize.request.palette_request import DEFAULTS, PaletteRequest, palette_request
from mil_palettize.request.yaml_text import read_yaml

STANDARD_STREAM = "-"
_TYPE = "config_type"
_PALETTIZER = "OpPalettizerConfig"
_LEVELS = ("op_type_configs", "op_name_configs")
_LARGEST = 16 << 20  # bytes of a file: recipes have an entry for each op at most
_LONGEST_TOLD = 1000  # characters of an error, which shows what it found
_KEYS = (_TYPE, "global_config", *_LEVELS)
_OPTIONS = tuple(name for name in DEFAULTS if name != "lut_function")
Options = Mapping[str, Any]


@dataclass(frozen=True)
class Entries:
    """Options of each entry, None for "leave alone"; values are not checked yet. ``places``: of each entry by
    (level, name), for errors."""

    global_options: Options | None
    by_type: Mapping[str, Options | None]
    by_name: Mapping[str, Options | None]
    places: Mapping[tuple[str, str], str]

    def requests(self) -> Requests:
        """Raises ConfigError naming the entry whose values are wrong, and UnsupportedModeError."""

        def request(level: str, name: str, options: Options | None) -> PaletteRequest | None:
            return None if options is None else palette_request(options, self.places[level, name])

        return Requests(
            request("global_config", "", self.global_options),
            {name: request("op_type_configs", name, options) for name, options in self.by_type.items()},
            {name: request("op_name_configs", name, options) for name, options in self.by_name.items()},
        )


def read_entries(mapping: Any) -> Entries:
    """The entries of a nested mapping in the form of coremltools' ``OptimizationConfig.from_dict``, which stays as it
    is. Raises ConfigError for what is no such mapping, and for keys that are not known, with near ones."""
    if not isinstance(mapping, Mapping):
        raise ConfigError("it must be a mapping with config_type and global_config, op_type_configs or op_name_configs")
    for key in mapping:
        if key not in _KEYS:
            raise ConfigError(f"Invalid key {key}{_line(mapping, key)}. Supported keys are {_KEYS}{_near(key, _KEYS)}")
    if not isinstance(mapping.get(_TYPE), str):
        raise ConfigError(
            f"config_type must be provided with type of string at the top of the file, as in config_type: {_PALETTIZER}"
        )
    found: dict[tuple[str, str], Options | None] = {}
    places: dict[tuple[str, str], str] = {}
    for level, name, place, options in _raw_entries(mapping):
        places[level, name] = place
        found[level, name] = None if options is None else _known_options(options, mapping[_TYPE], place)
    by_type, by_name = ({name: of for (level, name), of in found.items() if level == one} for one in _LEVELS)
    return Entries(found["global_config", ""], by_type, by_name, places)


def _raw_entries(mapping: Mapping[str, Any]) -> Iterator[tuple[str, str, str, Any]]:
    """(level, name, place, options) of each."""
    yield "global_config", "", f"global_config{_line(mapping, 'global_config')}", mapping.get("global_config")
    for level in _LEVELS:
        of_level = mapping.get(level)
        if of_level is None:
            continue
        if not isinstance(of_level, Mapping):
            kind = type(of_level).__name__
            raise ConfigError(f"{level}{_line(mapping, level)} must be type of dict, of options by name; got {kind}")
        for name, options in of_level.items():
            yield level, str(name), f"{level}[{name!r}]{_line(of_level, name)}", options


def _known_options(options: Any, config_type: str, place: str) -> Options:
    if not isinstance(options, Mapping):
        raise ConfigError(f"{place} must be a mapping of options or null, got {options!r}")
    kind = options.get(_TYPE, config_type)
    if kind != _PALETTIZER:
        raise ConfigError(f"{place}: unknown config_type {kind!r}, use {_PALETTIZER!r}")
    for key in options:
        if key == "lut_function":
            raise ConfigError(f"{place}: a lut_function can only be given in Python, to {_PALETTIZER}")
        if key not in (_TYPE, *_OPTIONS):
            line = _line(options, key)
            raise ConfigError(f"{place}: unknown option {key!r}{line}, allowed are {_OPTIONS}{_near(key, _OPTIONS)}")
    return {key: value for key, value in options.items() if key != _TYPE}


def _near(key: object, keys: tuple[str, ...]) -> str:
    return near_names(str(key), keys)


def _line(mapping: Mapping[Any, Any], key: object) -> str:
    line = getattr(mapping, "lines", {}).get(key)
    return "" if line is None else f" (line {line})"


def load_config(path: str | Path) -> Requests:
    """What a YAML file in coremltools' format asks for; ``-`` is standard input.

    Raises PackageError for a file that cannot be read, ConfigError in one line for bad YAML, or keys and values that
    are not known.
    """
    try:
        if path != STANDARD_STREAM:
            refuse_pointer(Path(path))
        with nullcontext(sys.stdin.buffer) if path == STANDARD_STREAM else open(path, "rb") as file:
            stored = file.read(_LARGEST + 1)
        text = stored.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise PackageError(f"config {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(stored) > _LARGEST:
        raise PackageError(f"config {path} has more than {_LARGEST} bytes, which is no recipe for one model")
    try:
        return read_entries(read_yaml(text)).requests()
    except yaml.YAMLError as error:
        raise ConfigError(f"config {path}, {_told(error, text)}") from error
    except (ValueError, TypeError, RecursionError) as error:  # TypeError: of a key that is a list
        kind = UnsupportedModeError if isinstance(error, UnsupportedModeError) else ConfigError
        told = " ".join(str(error).split()) or type(error).__name__
        told = told if len(told) <= _LONGEST_TOLD else f"{told[:_LONGEST_TOLD]}…"
        raise kind(f"config {path} is not a coremltools OptimizationConfig: {told}") from error


def _told(error: yaml.YAMLError, text: str) -> str:
    """Where the text stops being YAML, and why."""
    if isinstance(error, yaml.reader.ReaderError):
        lines = text[: error.position].split("\n")
        place = f"line {len(lines)}, column {len(lines[-1]) + 1}"
        return f"{place}: the character U+{ord(text[error.position]):04X} is not allowed"
    assert isinstance(error, yaml.MarkedYAMLError)
    mark, begun = error.problem_mark or error.context_mark, error.context_mark
    place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
    since = "" if begun is None or begun is mark else f" that begins in line {begun.line + 1}"
    context = f", {error.context}{since}" if error.context else ""
    hint = "; indent with spaces" if "\\t" in str(error.problem) else ""
    return f"{place}{error.problem}{context}{hint}"
