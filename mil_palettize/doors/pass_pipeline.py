"""A ``ct.PassPipeline`` with palettization where it belongs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coremltools.converters.mil.mil.passes.pass_pipeline import PassPipeline
from coremltools.optimize.coreml import OptimizationConfig

from mil_palettize.calibration.request import Calibration
from mil_palettize.doors.fusions import MULTIPLYING
from mil_palettize.doors.graph_passes import is_lossless, palettize_weights
from mil_palettize.doors.registration import PALETTIZE, PALETTIZE_CLUSTERED
from mil_palettize.errors import ConfigError
from mil_palettize.planning.plan import Select

_THEIRS = "compression::palettize_weights"
_REPLACED = (_THEIRS, PALETTIZE, PALETTIZE_CLUSTERED)


def pass_pipeline(
    config: OptimizationConfig,
    base: PassPipeline | None = None,
    *,
    select: Select = "weights",
    strict: bool = False,
    joint_compression: bool = False,
    importance: Mapping[str, Any] | None = None,
    calibration: Calibration | None = None,
) -> PassPipeline:
    """A pipeline for ``ct.convert(pass_pipeline=…)`` that palettizes as ``config`` says.

    In the copy of ``base``, ``mil_palettize::palettize_weights`` stands at the end, where weights are as they will be
    saved: fused, and cast to fp16. It takes the place of ``compression::palettize_weights``, wherever in ``base`` that
    stands, and of its options; passes of ``compression::`` that follow that one at the very end still follow it, so
    that ``linear_quantize_weights`` finds the look-up tables. All others come first: what
    ``compression::prune_weights`` made sparse (``ct.PassPipeline.DEFAULT_PRUNING``) is palettized with
    ``joint_compression``, stays sparse without.

    Where a weight is asked for with mode "unique" (the weights were clustered in training, as with
    ``ct.PassPipeline.DEFAULT_PALETTIZATION``), ``mil_palettize::palettize_clustered_weights`` comes before the fusions
    as well; see there what it takes.

    Args:
        config: an ``OptimizationConfig``, coremltools' own or ours; names are those of the saved model
            (``conv_1_cast_fp16``, ``weight_to_fp16``).
        base: what else is to be done, None for ``ct.PassPipeline.DEFAULT``; it stays as it is.
        select: an option of ``mil_palettize::palettize_weights``, as for :func:`palettize_package`; so are the others.
        strict: as above.
        joint_compression: as above.
        importance: as above.
        calibration: as above, of the weights alone.

    Returns:
        The copy of ``base`` with our passes in it.

    Raises:
        ConfigError: (a ValueError) for a wrong option, at once.

    >>> pipeline = pass_pipeline(OptimizationConfig(global_config=OpPalettizerConfig(nbits=4)))
    >>> pipeline.passes[-1]
    'mil_palettize::palettize_weights'
    """
    options: dict[str, Any] = {
        "config": config,
        "select": select,
        "strict": strict,
        "joint_compression": joint_compression,
        "importance": importance,
        "calibration": calibration,
    }
    checked = palettize_weights()
    for name, value in options.items():
        setattr(checked, name, value)
    base = PassPipeline.DEFAULT if base is None else base
    if not isinstance(base, PassPipeline):
        raise ConfigError(f"base is {base!r}, it must be a ct.PassPipeline, or None for ct.PassPipeline.DEFAULT")
    requests = checked.requests
    asked = (requests.global_request, *requests.by_type.values(), *requests.by_name.values())
    passes = _with_ours(base.passes, clustered=any(is_lossless(r) for r in asked))
    pipeline = PassPipeline(passes, base.pipeline_name)
    for name, of_pass in base.get_all_options().items():
        if name not in _REPLACED:
            pipeline.set_options(name, {option.option_name: option.option_val for option in of_pass})
    for name in {PALETTIZE, PALETTIZE_CLUSTERED}.intersection(passes):
        pipeline.set_options(name, options)
    return pipeline


def _with_ours(passes: list[str], clustered: bool) -> list[str]:
    """A copy of ``passes`` with ours in the place of every palettization."""
    anchor = max((i for i, name in enumerate(passes) if name in _REPLACED), default=len(passes))
    end = len(passes)
    while end - 1 > anchor and passes[end - 1].startswith("compression::"):
        end -= 1
    result = [name for name in passes[:end] if name not in _REPLACED] + [PALETTIZE, *passes[end:]]
    fusions = [i for i, name in enumerate(result) if name in MULTIPLYING]
    if clustered and fusions:
        result.insert(fusions[0], PALETTIZE_CLUSTERED)
    return result
