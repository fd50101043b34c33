"""coremltools' configs of its torch palettizers, with errors of one line and with the module types it lacks."""

from __future__ import annotations

import copy
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs
from coremltools.optimize.torch import palettization as theirs

from mil_palettize.errors import ConfigError
from mil_palettize.torch.training.module_weights import TRANSPOSED

ModuleDKMPalettizerConfig = theirs.ModuleDKMPalettizerConfig
ModulePostTrainingPalettizerConfig = theirs.ModulePostTrainingPalettizerConfig
ModuleSKMPalettizerConfig = theirs.ModuleSKMPalettizerConfig


class _OneLine:
    """``from_dict`` and ``from_yaml`` raise ConfigError for all that coremltools' own raise."""

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any]) -> Any:
        """As coremltools' own. Raises ConfigError (a ValueError) for keys and values that are not known."""
        with _errors_of(cls.__name__):
            _check_mappings(config_dict)
            return super().from_dict(config_dict)  # type: ignore[misc]

    @classmethod
    def from_yaml(cls, yml: Any) -> Any:
        """As coremltools' own, of paths of any type. Raises ConfigError for a file that cannot be read or is no YAML,
        and as :meth:`from_dict`."""
        with _errors_of(cls.__name__):
            return super().from_yaml(os.fspath(yml) if isinstance(yml, os.PathLike) else yml)  # type: ignore[misc]


class DKMPalettizerConfig(_OneLine, theirs.DKMPalettizerConfig):
    """coremltools' ``DKMPalettizerConfig``, which takes ``nn.ConvTranspose1d`` to ``3d`` as module types too.

    >>> DKMPalettizerConfig.from_dict({"global_config": {"n_bits": 3}}).global_config.n_bits
    3
    """

    module_type_configs: Any

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.module_type_configs = copy.deepcopy(self.module_type_configs)  # theirs of all that have none are one

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any]) -> DKMPalettizerConfig:
        """As coremltools' own. Raises ConfigError (a ValueError) for keys and values that are not known."""
        given = config_dict.get("module_type_configs") if isinstance(config_dict, Mapping) else None
        if not isinstance(given, Mapping):  # which theirs tells, where it is not left out
            found: DKMPalettizerConfig = super().from_dict(config_dict)
            return found
        types = dict(given)
        more = {key: types.pop(key) for key in list(types) if key in _MORE_TYPES}
        config: DKMPalettizerConfig = super().from_dict({**config_dict, "module_type_configs": types})
        if more and not types:
            config.module_type_configs = OrderedDict()  # without one coremltools puts in its defaults
        for key, options in more.items():
            config.set_module_type(key, None if options is None else _module_configs(options))
        return config


class PostTrainingPalettizerConfig(_OneLine, theirs.PostTrainingPalettizerConfig):
    """coremltools' ``PostTrainingPalettizerConfig``.

    >>> PostTrainingPalettizerConfig.from_dict({"global_config": {"n_bit": 3}})
    Traceback (most recent call last):
    mil_palettize.errors.ConfigError: PostTrainingPalettizerConfig: 'n_bit' not known
    """


class SKMPalettizerConfig(_OneLine, theirs.SKMPalettizerConfig):
    """coremltools' ``SKMPalettizerConfig``.

    >>> SKMPalettizerConfig.from_dict({"module_name_configs": {"0": {"n_bits": 2}}}).module_name_configs["0"].n_bits
    2
    """


_MORE_TYPES = {*TRANSPOSED, *(kind.__name__ for kind in TRANSPOSED)}


def _module_configs(options: Any) -> Any:
    if isinstance(options, list):
        found = [_module_configs(one) for one in options]
        return sorted(found, key=lambda config: config.weight_threshold)
    return options if attrs.has(type(options)) else ModuleDKMPalettizerConfig.from_dict(options)


def _check_mappings(config: Any) -> None:
    if not isinstance(config, Mapping):
        raise ConfigError(
            f"a config is a dict, such as {{'global_config': {{'n_bits': 4}}}}, and this is {type(config).__name__}"
        )
    for name in ("global_config", "module_type_configs", "module_name_configs"):
        if not isinstance(config.get(name), Mapping | None):
            raise ConfigError(f"{name} is {config[name]!r}; give a dict")


@contextmanager
def _errors_of(name: str) -> Iterator[None]:
    """All that attrs, cattrs, yaml and plain asserts raise, as ConfigError."""
    try:
        yield
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError(f"{name}: {error.filename} cannot be read: {error.strerror}") from error
    except Exception as error:
        raise ConfigError(f"{name}: {_told(error)}") from error


def _told(error: BaseException) -> str:
    """The first cause; cattrs wraps what attrs says into groups."""
    inner = getattr(error, "exceptions", None) or [error.__cause__ if error.__cause__ is not None else None]
    if inner[0] is not None:
        return _told(inner[0])
    extra = getattr(error, "extra_fields", None)
    if extra:
        return f"{', '.join(sorted(map(repr, extra)))} not known"
    return " ".join(str(error).split())
