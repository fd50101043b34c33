"""Exact, fast palettization of Core ML packages that moves nothing else. ``docs/`` has the whole picture.

Names are loaded when first used: coremltools takes seconds to import, and ``--help`` should not. The graph passes are
in coremltools' registry as soon as both are imported, in either order.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from mil_palettize.doors.registration import register
from mil_palettize.text import VERSION

if TYPE_CHECKING:
    from mil_palettize.budget.limits import Budget, Limits
    from mil_palettize.budget.recipe import Recipe
    from mil_palettize.calibration.finetuning import Finetuning
    from mil_palettize.calibration.request import Calibration
    from mil_palettize.doors.budget import plan_mixed_bits
    from mil_palettize.doors.decompression import decompress_package
    from mil_palettize.doors.expansion import expand_config
    from mil_palettize.doors.imported_recipes import import_recipe
    from mil_palettize.doors.inspection import diff_packages, inspect_package
    from mil_palettize.doors.mlmodel import decompress_weights, palettize_weights
    from mil_palettize.doors.package import compare, palettize_package
    from mil_palettize.doors.pass_pipeline import pass_pipeline
    from mil_palettize.doors.preflight import preflight_package
    from mil_palettize.doors.sensitivity import fisher_importance
    from mil_palettize.errors import (
        AlgorithmError,
        BlobError,
        ConfigError,
        EvaluationError,
        ModelTypeError,
        OutOfMemoryError,
        PackageError,
        PalettizeError,
        PlanError,
        UnsupportedModeError,
        UnsupportedOpError,
        VerifyError,
    )
    from mil_palettize.reports.model_comparison import ModelComparison
    from mil_palettize.reports.preflight import Preflight
    from mil_palettize.reports.progress import ProgressEvent
    from mil_palettize.reports.report import Report
    from mil_palettize.reports.weight_report import WeightReport
    from mil_palettize.request.config import OpPalettizerConfig, OptimizationConfig
    from mil_palettize.request.recipes import recipe_path

__version__ = VERSION

_HOMES = {
    "Budget": "budget.limits",
    "Calibration": "calibration.request",
    "Finetuning": "calibration.finetuning",
    "Limits": "budget.limits",
    "Recipe": "budget.recipe",
    "plan_mixed_bits": "doors.budget",
    "fisher_importance": "doors.sensitivity",
    "palettize_package": "doors.package",
    "palettize_weights": "doors.mlmodel",
    "decompress_weights": "doors.mlmodel",
    "expand_config": "doors.expansion",
    "import_recipe": "doors.imported_recipes",
    "inspect_package": "doors.inspection",
    "diff_packages": "doors.inspection",
    "decompress_package": "doors.decompression",
    "compare": "doors.package",
    "ModelComparison": "reports.model_comparison",
    "pass_pipeline": "doors.pass_pipeline",
    "preflight_package": "doors.preflight",
    "Preflight": "reports.preflight",
    "OpPalettizerConfig": "request.config",
    "OptimizationConfig": "request.config",
    "recipe_path": "request.recipes",
    "ProgressEvent": "reports.progress",
    "Report": "reports.report",
    "WeightReport": "reports.weight_report",
    "PalettizeError": "errors",
    "ConfigError": "errors",
    "PackageError": "errors",
    "BlobError": "errors",
    "PlanError": "errors",
    "ModelTypeError": "errors",
    "OutOfMemoryError": "errors",
    "UnsupportedModeError": "errors",
    "AlgorithmError": "errors",
    "VerifyError": "errors",
    "UnsupportedOpError": "errors",
    "EvaluationError": "errors",
}

__all__ = [
    "AlgorithmError",
    "BlobError",
    "Budget",
    "Calibration",
    "ConfigError",
    "EvaluationError",
    "Finetuning",
    "Limits",
    "ModelComparison",
    "ModelTypeError",
    "OpPalettizerConfig",
    "OptimizationConfig",
    "OutOfMemoryError",
    "PackageError",
    "PalettizeError",
    "PlanError",
    "Preflight",
    "ProgressEvent",
    "Recipe",
    "Report",
    "UnsupportedModeError",
    "UnsupportedOpError",
    "VerifyError",
    "WeightReport",
    "compare",
    "decompress_package",
    "decompress_weights",
    "diff_packages",
    "expand_config",
    "fisher_importance",
    "import_recipe",
    "inspect_package",
    "palettize_package",
    "palettize_weights",
    "pass_pipeline",
    "plan_mixed_bits",
    "preflight_package",
    "recipe_path",
]

register()


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
