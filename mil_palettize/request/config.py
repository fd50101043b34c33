"""coremltools' config classes with the options they lack. Importing this imports coremltools."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs
from coremltools.optimize import coreml

from mil_palettize.algorithms.options import LUT_DTYPES, SCALES, Granularity, LutDtype, Mode, Nbits, Scale
from mil_palettize.algorithms.registry import ALGORITHMS
from mil_palettize.request.entries import Options, read_entries
from mil_palettize.request.palette_request import DEFAULT_GROUP_SIZE, LEFT_OUT_BY_NONE, implied_granularity

_define: Any = attrs.define  # known as such, type checkers would miss the fields of coremltools' untyped classes


def _left_out(cls: type, fields: list[Any]) -> list[Any]:
    """Fields where a value that is left out, or None, means another thing than any that is given."""
    return [
        field.evolve(
            default=None,
            converter=field.converter and attrs.converters.optional(field.converter),
            validator=field.validator and attrs.validators.optional(field.validator),
        )
        if field.name in LEFT_OUT_BY_NONE
        else field
        for field in fields
    ]


@_define(field_transformer=_left_out)
class OpPalettizerConfig(coreml.OpPalettizerConfig):
    """coremltools' ``OpPalettizerConfig`` and two options more, which coremltools itself ignores.

    ``scale``: what ``enable_per_channel_scale`` writes. "op", or None: a scale for each output channel, in an op after
    the table; "fold": a table for each output channel instead, in which the scales are contained. ``lut_dtype``: "int8"
    or "uint8" for quantized table entries (iOS18), None for the weight's own type. ``mode``: any algorithm of ours.
    ``group_size``, or ``channel_axis`` of scalars, without a ``granularity`` mean ``"per_grouped_channel"``, as on the
    command line. Raises ValueError for other values.

    >>> OpPalettizerConfig(nbits=4, group_size=8).granularity.name
    'PER_GROUPED_CHANNEL'
    """

    if TYPE_CHECKING:  # what attrs makes of the fields, of which type checkers miss those of coremltools' classes

        def __init__(
            self,
            mode: Mode = "kmeans",
            nbits: Nbits | None = None,
            lut_function: Callable[..., Any] | None = None,
            granularity: Granularity | None = None,
            group_size: int | None = None,
            channel_axis: int | None = None,
            cluster_dim: int = 1,
            enable_per_channel_scale: bool = False,
            num_kmeans_workers: int = 1,
            weight_threshold: int | None = 2048,
            scale: Scale | None = None,
            lut_dtype: LutDtype | None = None,
        ) -> None: ...

    # Where coremltools' validator looks up what a mode may be, and what its message lists.
    _WEIGHT_PALETTIZATION_MODES = property(lambda self: tuple(name.upper() for name in ALGORITHMS))

    scale: str | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.in_(SCALES)))
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
        options: dict[str, Any] = {name: getattr(self, name) for name in ("group_size", "channel_axis", "cluster_dim")}
        if getattr(self, "granularity", None) is None:
            self.granularity = implied_granularity(options)
        self.group_size = DEFAULT_GROUP_SIZE if options["group_size"] is None else options["group_size"]


class OptimizationConfig(coreml.OptimizationConfig):
    """coremltools' ``OptimizationConfig``, whose ``from_dict`` and ``from_yaml`` know this library's options.

    ``global_config``: for all weights; ``op_type_configs``: by the type of the ops that read them; ``op_name_configs``:
    by name, of constants, ops, outputs or modules, or by pattern (``*``, ``re:``). None leaves alone; names go before
    types, and these before the global config.

    >>> config = OptimizationConfig(
    ...     global_config=OpPalettizerConfig(nbits=4),
    ...     op_type_configs={"gather": None},
    ...     op_name_configs={"head": OpPalettizerConfig(nbits=8), "*hidden*": None},
    ... )
    >>> report = palettize_package("fixtures/conv_fp16_ios18.mlpackage", None, config, dry_run=True)
    >>> {weight.name: weight.nbits for weight in report.palettized if weight.nbits != 4}
    {'head_weight': 8}
    """

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any]) -> OptimizationConfig:
        """As coremltools' own, with ``scale`` and ``lut_dtype``; ``config_dict`` stays as it is.

        Raises ConfigError (a ValueError) for keys that are not known, ValueError for values.
        """
        entries = read_entries(config_dict)
        return cls(
            _config(entries.global_options),
            {name: _config(options) for name, options in entries.by_type.items()},
            {name: _config(options) for name, options in entries.by_name.items()},
        )


def _config(options: Options | None) -> OpPalettizerConfig | None:
    return None if options is None else OpPalettizerConfig(**options)
