"""coremltools' configs of its torch palettizers, with errors of one line and with the module types it lacks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import attrs
from coremltools.optimize.torch import palettization as theirs

from mil_palettize.errors import ConfigError
from mil_palettize.torch.training.module_weights import TRANSPOSED

ModuleDKMPalettizerConfig = theirs.ModuleDKMPalettizerConfig
ModulePostTrainingPalettizerConfig = theirs.ModulePostTrainingPalettizerConfig
ModuleSKMPalettizerConfig = theirs.ModuleSKMPalettizerConfig


class _OneLine:
    """``from_dict``, and so ``from_yaml``, raise ConfigError for all that coremltools' own raise."""

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any]) -> Any:
        """As coremltools' own. Raises ConfigError (a ValueError) for keys and values that are not known."""
        try:
            return super().from_dict(config_dict)  # type: ignore[misc]
        except ConfigError:
            raise
        except Exception as error:  # of attrs, of cattrs and of plain asserts
            raise ConfigError(f"{cls.__name__}: {_told(error)}") from error


class DKMPalettizerConfig(_OneLine, theirs.DKMPalettizerConfig):
    """coremltools' ``DKMPalettizerConfig``, which takes ``nn.ConvTranspose1d`` to ``3d`` as module types too.

    >>> DKMPalettizerConfig.from_dict({"global_config": {"n_bits": 3}}).global_config.n_bits
    3
    """

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any]) -> DKMPalettizerConfig:
        """As coremltools' own. Raises ConfigError (a ValueError) for keys and values that are not known."""
        types = dict(config_dict.get("module_type_configs") or {})
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


def _told(error: BaseException) -> str:
    """The first cause; cattrs wraps what attrs says into groups."""
    inner = getattr(error, "exceptions", None) or [error.__cause__ if error.__cause__ is not None else None]
    if inner[0] is not None:
        return _told(inner[0])
    extra = getattr(error, "extra_fields", None)
    if extra:
        return f"{', '.join(sorted(map(repr, extra)))} not known"
    return str(error.args[0] if error.args else error)
