"""What packages that are compared are palettized with."""

from __future__ import annotations

from typing import Any

from mil_palettize import OpPalettizerConfig, OptimizationConfig


def config(nbits: int = 4, **options: Any) -> OptimizationConfig:
    return OptimizationConfig(global_config=OpPalettizerConfig(nbits=nbits, weight_threshold=100, **options))
