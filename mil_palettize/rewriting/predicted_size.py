"""The bytes of a package with palettes, before one of them is made."""

from __future__ import annotations

import numpy as np

from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.expressions.packed import Packed, packed_nbytes
from mil_palettize.expressions.weight_expr import Lut, Scale, WeightExpr
from mil_palettize.program.weight import Weight
from mil_palettize.rewriting.palette_writer import PaletteWriter
from mil_palettize.rewriting.palettization import Prepared
from mil_palettize.rewriting.planned_palettes import planned_sites, wanted_palettes

_TYPES = {"fp16": np.float16, "fp32": np.float32}


def predicted_nbytes(prepared: Prepared) -> int:
    """Bytes of all files of the package that a run of ``prepared`` writes, where no weight's values rule its palette
    out: every record where it will lie, every op as it will be. ``prepared.model`` is changed as by writing it; the
    plan's palettes are of dense constants and of a known number of bits (:func:`blank_palette`)."""
    decisions = planned_sites(prepared.model, prepared.plan)
    writer = PaletteWriter(prepared.model, wanted_palettes(decisions))
    blanks = ((decisions[job.site].weight, decisions[job.site].specification) for job in writer.jobs())
    return writer.measure(None if made is None else blank_palette(weight, made) for weight, made in blanks)


def blank_palette(weight: Weight, specification: PaletteSpecification) -> WeightExpr:
    """A palette of zeros of the form that ``specification`` means for a dense ``weight``; its memory is never touched.
    The specification says its number of bits, and no ``lut_dtype``."""
    nbits, dim, axis = specification.nbits, specification.cluster_dim, specification.axis
    assert nbits is not None
    assert specification.lut_dtype is None
    assert not weight.joint
    shape, groups = list(weight.shape), [1] * len(weight.shape)
    if axis is not None and specification.group_size is not None:
        groups[axis] = shape[axis] // specification.group_size
    if axis is not None and dim > 1:
        shape[axis] //= dim
    count = packed_nbytes(weight.size // dim, nbits)
    indices = Packed(np.zeros(count, np.uint8), nbits, tuple(shape))
    table = np.zeros((*groups, 1 << nbits, dim), _TYPES[weight.dtype])
    lut = Lut(indices, table, axis if dim > 1 else None)
    if specification.scale_axis is None:
        return lut
    scales = [size if i == specification.scale_axis else 1 for i, size in enumerate(weight.shape)]
    return Scale(lut, np.zeros(scales, _TYPES[weight.dtype]))
