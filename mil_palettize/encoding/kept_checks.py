"""Whether what was kept is what this specification needs: compiled loops and writers see nothing else.

A digest says that a file is as it was written, not who wrote it: sizes, types and numbers are held against the weight.
"""

from __future__ import annotations

import math

import numpy as np

from mil_palettize.algorithms.making import Distribution, Source
from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.encoding.kept_files import DamagedError
from mil_palettize.encoding.results import Encoded
from mil_palettize.expressions.weight_expr import Const, Lut, Part, Scale, Sparse, WeightExpr
from mil_palettize.request.importance import Importance

# Errors may be summed over distinct values, these are over elements: only rounding may differ.
RELATIVE_TOLERANCE = 1e-9
_FLOATS = (np.dtype("<f2"), np.dtype("<f4"))


def check_distribution(found: Distribution, source: Source) -> None:
    """Raise DamagedError unless the distinct values may be those of ``source``: of its type and size, ascending,
    finite, with whole positive counts that sum to its elements."""
    values, weights, size = found.values, found.weights, math.prod(source.shape)
    if found.dtype != source.dtype or found.size != size:
        raise DamagedError(f"it is of {found.size} values of {found.dtype}, not of {size} of {source.dtype}")
    if values.ndim != 1 or values.shape != weights.shape or not 0 < values.size <= size:
        raise DamagedError(f"it has {values.shape} values and {weights.shape} counts of {size} elements")
    if not (np.isfinite(values).all() and (np.diff(values) > 0).all()):
        raise DamagedError("its values are not finite and ascending")
    if found.exact and not np.array_equal(values, values.astype(found.dtype)):
        raise DamagedError(f"its values are not of {found.dtype}")
    if found.dtype == np.float16 and not found.exact:
        raise DamagedError("float16 values are always exact")
    if not (np.isfinite(weights).all() and (weights >= 1).all() and (weights == np.floor(weights)).all()):
        raise DamagedError("its counts are not whole numbers from 1 up")
    if weights.sum() != size:
        raise DamagedError(f"its counts sum to {weights.sum():.0f}, not to {size}")
    if not (math.isfinite(found.signal) and found.signal >= 0):
        raise DamagedError(f"its sum of squares is {found.signal}")


def check_palette(
    found: Encoded, specification: PaletteSpecification, source: Source, held: WeightExpr | None, *, weighted: bool
) -> None:
    """Raise DamagedError unless ``found`` is a palette as ``specification`` asks for, of the weight's shape and type,
    with a weighted error exactly where it is ``weighted``."""
    shape, dtype = (source.shape, source.dtype) if held is None else (held.shape, held.dtype)
    if tuple(found.expr.shape) != tuple(shape) or found.expr.dtype != dtype:
        raise DamagedError(f"it stands for {found.expr.dtype}{list(found.expr.shape)}, not {dtype}{list(shape)}")
    if not all(math.isfinite(n) and n >= 0 for n in (found.sse, found.signal)):
        raise DamagedError(f"its error is {found.sse} of {found.signal}")
    error = found.weighted_error
    if (error is not None) != weighted or (error is not None and not (math.isfinite(error) and error >= 0)):
        raise DamagedError(f"its weighted error is {error}")
    _check_carried_out(found.specification, specification)
    lut = _palette_in(found.expr, specification, held)
    allowed = specification.allowed_nbits if specification.nbits is None else (specification.nbits,)
    if lut.indices.nbits not in allowed:
        raise DamagedError(f"its indices have {lut.indices.nbits} bits")
    vector_axis = None if lut.vector == 1 else found.specification.axis
    if (lut.vector, lut.vector_axis) != (specification.cluster_dim, vector_axis):
        raise DamagedError(f"its entries are vectors of {lut.vector} along axis {lut.vector_axis}")
    if not isinstance(held, Scale):  # whose tables are repeated for every scale
        _check_groups(lut, found.specification)


def check_errors(found: Encoded, source: Source, held: WeightExpr | None, importance: Importance | None) -> None:
    """Raise DamagedError unless the errors of ``found`` are those of its palette, whose values nothing else vouches
    for. ``held``: what the weight is stored as, where it is compressed; then ``source`` is not read."""
    decoded, start = found.expr.decode().reshape(-1), 0
    spread = None if importance is None else importance.spread(found.expr.shape).reshape(-1)
    error = signal = weighted = 0.0
    for window in source.windows() if held is None else (held.decode().reshape(-1),):
        part = slice(start, start + window.size)
        wide = window.astype(np.float64)
        difference = wide - decoded[part]
        error, signal = error + float(np.vdot(difference, difference)), signal + float(np.vdot(wide, wide))
        weighted += 0.0 if spread is None else float(np.vdot(spread[part] * difference, difference))
        start += window.size
    pairs = [(error, found.sse), (signal, found.signal), (weighted, found.weighted_error or 0.0)]
    if not all(math.isclose(*pair, rel_tol=RELATIVE_TOLERANCE, abs_tol=1e-300) for pair in pairs):
        raise DamagedError(f"it has the squared error {error}, not {found.sse}")


def _check_carried_out(made: PaletteSpecification, specification: PaletteSpecification) -> None:
    """As asked, or a table for each channel."""
    asked, spread = (specification.axis, specification.group_size), (specification.spread_axis, 1)
    if (made.axis, made.group_size) not in (asked, spread):
        raise DamagedError(f"its groups are of {made.group_size} along axis {made.axis}, not as planned")


def _check_groups(lut: Lut, specification: PaletteSpecification) -> None:
    groups = [1] * len(lut.shape)
    if specification.axis is not None and specification.group_size is not None:
        groups[specification.axis] = lut.shape[specification.axis] // specification.group_size
    if lut.groups != tuple(groups):
        raise DamagedError(f"it has tables for {lut.groups} groups, not {tuple(groups)}")


def _palette_in(expr: WeightExpr, specification: PaletteSpecification, held: WeightExpr | None) -> Lut:
    """The look-up table, in the parts that such a palette has around it and inside."""
    inner: Part = expr
    _check_steps(inner)
    if specification.scale_axis is not None and isinstance(inner, Scale):
        _check_array(inner.scale, _FLOATS)
        inner = inner.data
    elif isinstance(held, Scale) and isinstance(inner, Scale):
        inner = inner.data
    if isinstance(held, Sparse):
        mask = specification.mask_of(held.mask)
        if not isinstance(inner, Sparse) or inner.mask.shape != mask.shape:
            raise DamagedError("it is no palette of what a sparse weight holds")
        if inner.mask.data.tobytes() != mask.data.tobytes():
            raise DamagedError("it has another mask than the weight")
        inner = inner.data
    if not isinstance(inner, Lut):
        raise DamagedError(f"it is a {type(inner).__name__}, no palette")
    _check_table(inner.lut, specification, held)
    return inner


def _check_table(table: Part, specification: PaletteSpecification, held: WeightExpr | None) -> None:
    _check_steps(table)
    if isinstance(table, Scale):
        _check_array(table.scale, _FLOATS)
        if table.offset is not None:
            _check_array(table.offset, (*_FLOATS, np.dtype(np.int8), np.dtype(np.uint8)))
        data = table.data.array if isinstance(table.data, Const) else None
        _check_array(data, (np.dtype(np.int8), np.dtype(np.uint8)))
        if specification.lut_dtype is None and not isinstance(held, Scale):
            raise DamagedError("its table is quantized")
        return
    integers = (np.dtype(np.int8), np.dtype(np.uint8)) if isinstance(held, Scale) else ()
    _check_array(table, (*_FLOATS, *integers))


def _check_steps(part: Part) -> None:
    """No palette is scaled as ``constexpr_affine_dequantize`` does it, and none is written so."""
    if isinstance(part, Scale) and part.affine:
        raise DamagedError("it is scaled in one step")


def _check_array(array: object, dtypes: tuple[np.dtype, ...]) -> None:
    if not isinstance(array, np.ndarray) or array.dtype not in dtypes:
        raise DamagedError(f"a part of it is {getattr(array, 'dtype', type(array).__name__)}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DamagedError("it holds numbers that are not finite")
