"""All that needs torch, which only this package imports: ``pip install 'mil-palettize[torch]'``. ML Programs run with
it, and palettes that are learned. What trains is loaded when first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from mil_palettize.errors import ConfigError

try:
    import torch  # noqa: F401
except ImportError as error:
    raise ConfigError("this needs torch: pip install 'mil-palettize[torch]'") from error

from mil_palettize.torch.evaluator.model_pipeline import Pipeline, open_model
from mil_palettize.torch.reference import compare_with

if TYPE_CHECKING:
    from mil_palettize.torch.training.calibrated import CalibratedPalettizer
    from mil_palettize.torch.training.config import (
        DKMPalettizerConfig,
        ModuleDKMPalettizerConfig,
        ModulePostTrainingPalettizerConfig,
        ModuleSKMPalettizerConfig,
        PostTrainingPalettizerConfig,
        SKMPalettizerConfig,
    )
    from mil_palettize.torch.training.dkm_palettizer import DKMPalettizer
    from mil_palettize.torch.training.mil_module import MILModule
    from mil_palettize.torch.training.post_training import PostTrainingPalettizer
    from mil_palettize.torch.training.sensitive import SKMPalettizer

_HOMES = {
    "CalibratedPalettizer": "calibrated",
    "DKMPalettizer": "dkm_palettizer",
    "DKMPalettizerConfig": "config",
    "MILModule": "mil_module",
    "ModuleDKMPalettizerConfig": "config",
    "ModulePostTrainingPalettizerConfig": "config",
    "ModuleSKMPalettizerConfig": "config",
    "PostTrainingPalettizer": "post_training",
    "PostTrainingPalettizerConfig": "config",
    "SKMPalettizer": "sensitive",
    "SKMPalettizerConfig": "config",
}

__all__ = [
    "CalibratedPalettizer",
    "DKMPalettizer",
    "DKMPalettizerConfig",
    "MILModule",
    "ModuleDKMPalettizerConfig",
    "ModulePostTrainingPalettizerConfig",
    "ModuleSKMPalettizerConfig",
    "Pipeline",
    "PostTrainingPalettizer",
    "PostTrainingPalettizerConfig",
    "SKMPalettizer",
    "SKMPalettizerConfig",
    "compare_with",
    "open_model",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.training.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
