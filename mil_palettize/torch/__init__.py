"""ML Programs run with torch, which only this package imports: ``pip install 'mil-palettize[torch]'``."""

from __future__ import annotations

from mil_palettize.errors import ConfigError

try:
    import torch  # noqa: F401
except ImportError as error:
    raise ConfigError("this needs torch: pip install 'mil-palettize[torch]'") from error

from mil_palettize.torch.evaluator.model_pipeline import Pipeline, open_model
from mil_palettize.torch.evaluator.module import MILModule
from mil_palettize.torch.reference import compare_with

__all__ = ["MILModule", "Pipeline", "compare_with", "open_model"]
