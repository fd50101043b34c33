"""One palette that is to be made, in one frozen type: planned once, then the same for encoder, cache and report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mil_palettize.algorithms.options import GRANULARITIES
from mil_palettize.expressions.packed import Packed, mask_of_vectors


@dataclass(frozen=True)
class PaletteSpecification:
    """What palette is to be made of a weight.

    ``mode``: the name of an algorithm (see ``registry``). ``nbits``: one of ``allowed_nbits``; None for algorithms that
    choose it, which use the fewest allowed that fit. ``axis`` and ``group_size``: one table per ``group_size`` (a
    divisor) consecutive channels along ``axis``; ``group_size`` None for one table per tensor. ``lut_function``: for
    "custom". ``cluster_dim``: elements of a vector along ``axis``, 1 for scalars. ``scale_axis``: of a scale for each
    channel, None without one. ``lut_dtype``: of a quantized table, one of ``LUT_DTYPES``, None for that of the weight.
    ``spread_axis``: along which there may be a table for each channel instead, where one table cannot hold a weight
    without loss; ``make_palette`` does as it is told and leaves that to the encoder.
    """

    mode: str
    nbits: int | None
    allowed_nbits: tuple[int, ...]
    axis: int | None = None
    group_size: int | None = None
    lut_function: Callable[..., Any] | None = None
    cluster_dim: int = 1
    scale_axis: int | None = None
    lut_dtype: str | None = None
    spread_axis: int | None = None

    @property
    def granularity(self) -> str:
        """One of ``GRANULARITIES``."""
        return GRANULARITIES[self.group_size is not None]

    def mask_of(self, mask: Packed) -> Packed:
        """``mask`` of a sparse weight's elements (1 bit each) as that of what has an index: scalars, or vectors."""
        return mask_of_vectors(mask, self.cluster_dim, (self.axis or 0) % len(mask.shape))
