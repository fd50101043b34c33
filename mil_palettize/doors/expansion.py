"""The door for configs whose names stand for several weights: to configs that coremltools reads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mil_palettize.errors import memory_told
from mil_palettize.program.model import Model
from mil_palettize.request.normalised import Requests, normalise
from mil_palettize.request.plain_names import as_mapping, with_plain_names

if TYPE_CHECKING:
    from coremltools.optimize.coreml import OptimizationConfig as TheirConfig

    from mil_palettize.request.config import OptimizationConfig

PathLike = str | os.PathLike[str]


def expand_config(path: PathLike, config: TheirConfig) -> OptimizationConfig:
    """``config`` for the package at ``path`` without patterns and names of modules, as coremltools knows none.

    Args:
        path: a package, which is only read.
        config: an ``OptimizationConfig``, coremltools' own or ours.

    Returns:
        A config with an entry of ``op_name_configs`` for every constant that a pattern or a module decides, by its
        name, null where a pattern matches it and leaves it alone; all other entries stay.
        ``coremltools.optimize.coreml`` takes it, where it uses coremltools' own options.

    Raises:
        ConfigError: for a config that is none.
        PackageError: for a package that cannot be read.
        PlanError: for a pattern that matches nothing, and for a name that may mean several modules.

    >>> config = OptimizationConfig(op_name_configs={"h*": OpPalettizerConfig(nbits=6)})
    >>> sorted(expand_config("fixtures/conv_fp16_ios18.mlpackage", config).op_name_configs)
    ['head_weight', 'hidden_weight']
    """
    from mil_palettize.request.config import OptimizationConfig

    return OptimizationConfig.from_dict(as_mapping(expanded(path, normalise(config))))


@memory_told()
def expanded(path: PathLike, requests: Requests) -> Requests:
    """The same of what a file was read to."""
    with Model.open(path) as model:
        survey = model.survey()
        return with_plain_names(requests, [site.weight for site in survey.sites], survey.op_names)
