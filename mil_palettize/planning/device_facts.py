"""What the table of device rules asks about: a palette, an op, a state, a model. No value of a weight is among it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mil_palettize.algorithms.specification import PaletteSpecification

CONVOLUTIONS = ("conv", "conv_transpose", "conv_quantized")


@dataclass(frozen=True)
class PaletteFacts:
    """``nbits``: of an index; ``group_size``: channels that share a table, 0 for one table of the whole weight;
    ``cluster_dim``: elements of a vector, 1 for scalars; ``scaled``: by an op after the table; ``across``: whether
    groups or vectors lie along another axis than the output channels of the op that reads it; ``quantized_model``:
    whether the model computes with quantized activations."""

    nbits: int
    group_size: int = 0
    cluster_dim: int = 1
    scaled: bool = False
    across: bool = False
    quantized_model: bool = False


@dataclass(frozen=True)
class OpFacts:
    """``dtype``: MIL's name of what it gives; ``strides``, ``dilations``: of convolutions and pools, () elsewhere;
    ``groups`` and ``channels``: of the result, of convolutions; ``kernel``: sizes of a convolution's constant kernel,
    in depth, height and width as far as it has them, () elsewhere; ``palettized``: whether that is a palette;
    ``table_rows``: of a constant table that is looked up, 0 for none."""

    op_type: str
    dtype: str
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    groups: int = 1
    channels: int = 0
    kernel: tuple[int, ...] = ()
    palettized: bool = False
    table_rows: int = 0


@dataclass(frozen=True)
class StateFacts:
    """A state of a model, of a fixed shape."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class ModelFacts:
    """``weight_nbytes``: of the largest weight file; ``ranges``: whether an input may have any size within limits."""

    weight_nbytes: int
    ranges: bool = False


Facts = PaletteFacts | OpFacts | StateFacts | ModelFacts


def asked_palette(options: Mapping[str, Any]) -> PaletteFacts:
    """Of options as a config has them."""
    grouped = options.get("granularity") == "per_grouped_channel"
    return PaletteFacts(
        nbits=int(options["nbits"]),
        group_size=int(options.get("group_size", 32)) if grouped else 0,
        cluster_dim=int(options.get("cluster_dim", 1)),
        scaled=bool(options.get("enable_per_channel_scale")) and options.get("scale") != "fold",
    )


def planned_palette(specification: PaletteSpecification, output_axis: int | None) -> PaletteFacts | None:
    """Of what is planned for a weight whose output channels lie along ``output_axis``; None where values decide how
    many bits it has."""
    if specification.nbits is None:
        return None
    along = specification.axis
    return PaletteFacts(
        nbits=specification.nbits,
        group_size=specification.group_size or 0,
        cluster_dim=specification.cluster_dim,
        scaled=specification.scale_axis is not None,
        across=along is not None and output_axis is not None and along != output_axis,
    )
