"""How many bytes a palette takes, before it is made."""

from __future__ import annotations

import math

from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.expressions.weight_expr import packed_nbytes
from mil_palettize.program.forms import FORMS
from mil_palettize.program.weight import ITEMSIZE, Weight


def palette_nbytes(weight: Weight, specification: PaletteSpecification, nbits: int) -> int:
    """Bytes of everything a weight is stored as with a palette of ``nbits``; of vectors of a sparse weight the least
    that it can be, where all of a vector is left or nothing."""
    itemsize, scale_axis = ITEMSIZE[weight.dtype], specification.scale_axis
    tables = math.prod(_groups(weight, specification))
    entries = tables * (1 << nbits) * specification.cluster_dim
    quantized = entries + tables * (itemsize + (specification.lut_dtype == "uint8"))
    table = entries * itemsize if specification.lut_dtype is None else quantized
    if weight.joint:
        dim = specification.cluster_dim
        kept = weight.nbytes - weight.stored_nbytes if dim == 1 else packed_nbytes(weight.size // dim, 1)
        table = _integer_tables(weight, specification) << nbits if weight.joint == "scaled" else table
        return kept + packed_nbytes(-(-weight.stored // dim), nbits) + table
    scales = 0 if scale_axis is None else weight.shape[scale_axis] * itemsize
    return packed_nbytes(weight.size // specification.cluster_dim, nbits) + table + scales


def _groups(weight: Weight, specification: PaletteSpecification) -> list[int]:
    """How many tables there are along each axis."""
    groups = [1] * len(weight.shape)
    if specification.axis is not None and specification.group_size is not None:
        groups[specification.axis] = weight.shape[specification.axis] // specification.group_size
    return groups


def _integer_tables(weight: Weight, specification: PaletteSpecification) -> int:
    """How many tables of integers are stored: where they are scaled first, one for each scale or group."""
    form = FORMS[weight.opset]
    groups = _groups(weight, specification)
    if form is not None and form.tables_scaled_first:
        groups = [math.lcm(own, blocks) for own, blocks in zip(groups, weight.blocks, strict=True)]
    return math.prod(groups)


def not_smaller(after: int, before: int) -> str:
    """Why a weight of ``before`` bytes gets no palette of ``after``."""
    return f"its palette would take {after:,} bytes, the weight takes {before:,}"
