"""Palettes of weights: ``make_palette`` and the registry of algorithms (numpy and numba only)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from mil_palettize.algorithms.array_palette import array_palette
from mil_palettize.algorithms.distribution import Distribution, describe
from mil_palettize.algorithms.palette import ArrayAlgorithm, Palette, Request, ScalarAlgorithm
from mil_palettize.algorithms.quantized_grid import LUT_DTYPES, UnquantizableError
from mil_palettize.algorithms.scalar import custom, kmeans, uniform, unique
from mil_palettize.algorithms.scalar.grouped import grouped_palette
from mil_palettize.algorithms.scalar.masked_scaled import shaped_palette
from mil_palettize.algorithms.scalar.masked_scaled_custom import shaped_array_palette
from mil_palettize.algorithms.scalar.per_tensor import tensor_palette
from mil_palettize.algorithms.scalar.unique import TooManyValuesError
from mil_palettize.algorithms.source import ArraySource, NonFiniteError, Source, WatchedSource
from mil_palettize.algorithms.vector import kmeans as vector_kmeans
from mil_palettize.algorithms.vector.palettes import VectorAlgorithm, vector_palette
from mil_palettize.algorithms.vector.quantized import quantized_vector_palette
from mil_palettize.errors import AlgorithmError
from mil_palettize.expressions.packed import Packed

ALGORITHMS: dict[str, ScalarAlgorithm | ArrayAlgorithm] = {
    "kmeans": ScalarAlgorithm(kmeans.entries, entries_of_groups=kmeans.entries_of_groups, optimal=True),
    "uniform": ScalarAlgorithm(uniform.entries),
    "unique": ScalarAlgorithm(unique.entries, chooses_nbits=True),
    "custom": ArrayAlgorithm(custom.codes),
}
VECTOR_ALGORITHMS: dict[str, VectorAlgorithm | ArrayAlgorithm] = {
    "kmeans": VectorAlgorithm(vector_kmeans.entries),
    "unique": VectorAlgorithm(unique.vector_entries, chooses_nbits=True),
    "custom": ArrayAlgorithm(custom.codes),
}

__all__ = [
    "ALGORITHMS",
    "VECTOR_ALGORITHMS",
    "ArrayAlgorithm",
    "ArraySource",
    "Distribution",
    "NonFiniteError",
    "Palette",
    "ScalarAlgorithm",
    "Source",
    "TooManyValuesError",
    "UnquantizableError",
    "VectorAlgorithm",
    "WatchedSource",
    "describe",
    "make_palette",
]


def make_palette(
    source: Source,
    *,
    mode: str,
    nbits: int | None,
    allowed_nbits: Sequence[int],
    axis: int | None = None,
    group_size: int | None = None,
    cluster_dim: int = 1,
    lut_function: Callable[[np.ndarray], Any] | None = None,
    pmap: Callable[..., Iterable[Any]] = map,
    mask: Packed | None = None,
    scale_axis: int | None = None,
    lut_dtype: str | None = None,
    importance: np.ndarray | None = None,
    distinct: Callable[[Source], Distribution] = describe,
) -> Palette:
    """Make the palette of a weight (float16, float32, int8 or uint8, at least one element, any rank from 1).

    ``mode``: a name in ``ALGORITHMS``. ``nbits``: one of ``allowed_nbits``; None for "unique" and "custom", which use
    the fewest allowed that fit. ``axis`` and ``group_size``: one table per ``group_size`` (a divisor) consecutive
    channels along ``axis``; None for one table. ``cluster_dim``: with more than 1, every so many consecutive elements
    along ``axis`` share an index into a table of vectors (a name in ``VECTOR_ALGORITHMS``). ``lut_function``: for
    "custom". ``pmap``: like ``map``, may run on threads. The same input gives the same bytes whatever ``pmap`` and the
    windows of the source are. ``distinct``: like :func:`describe`, which may know the weight already; asked for
    palettes of one plain table.

    For scalars (``lut_dtype`` also for vectors), one by one or together; the squared error of what is decoded in the
    end is made small:

    - ``mask``: 1 bit, of the weight's shape. Only elements where it is set count; the others decode to 0.
    - ``scale_axis``: entries are multiplied by a scale for each channel along this axis, of the weight's dtype. The
      weight is float.
    - ``lut_dtype``: "int8" or "uint8". All tables are stored in it, with one scale (and for uint8 one zero point). The
      weight is float.
    - ``importance``: positive floats of the weight's rank; each size divides the weight's, an element holds for a
      block. The sum of importance times squared error is made small, and ``sse`` and ``signal`` are weighted.

    A table of an int8 or uint8 weight is of the same dtype; ``lut_function`` then sees int32. The palette's expression
    is a ``Lut``, with ``scale_axis`` in a ``Scale``, with ``mask`` in a ``Sparse`` (outermost).

    Raises ``AlgorithmError``: ``NonFiniteError``, ``TooManyValuesError``, ``UnquantizableError`` (mode "unique" with
    ``scale_axis`` or ``lut_dtype``), a wrong ``lut_function``, a wrong request.
    """
    algorithm = _algorithm(source.name, mode, cluster_dim)
    chooses = isinstance(algorithm, ArrayAlgorithm) or algorithm.chooses_nbits
    _check_nbits(source.name, mode, nbits, allowed_nbits, chooses)
    if source.dtype not in (np.float16, np.float32, np.int8, np.uint8):
        raise AlgorithmError(
            f"weight '{source.name}' is {source.dtype}; a palette is made of float16, float32, int8 or uint8"
        )
    axis, groups = _groups(source, axis, group_size, cluster_dim)
    request = Request(
        source,
        nbits,
        tuple(allowed_nbits),
        axis,
        groups,
        lut_function,
        pmap,
        cluster_dim,
        mask=mask,
        scale_axis=_scale_axis(source, scale_axis),
        lut_dtype=lut_dtype,
        importance=importance,
        distinct=distinct,
    )
    if request.shaped:
        return _shaped_palette(algorithm, request)
    if isinstance(algorithm, ArrayAlgorithm):
        return array_palette(algorithm, request)
    if isinstance(algorithm, VectorAlgorithm):
        return vector_palette(algorithm, request)
    return (tensor_palette if groups == 1 else grouped_palette)(algorithm, request)


def _shaped_palette(algorithm: ScalarAlgorithm | ArrayAlgorithm | VectorAlgorithm, request: Request) -> Palette:
    _check_shape(request)
    if request.cluster_dim > 1:
        assert not isinstance(algorithm, ScalarAlgorithm)
        return quantized_vector_palette(algorithm, request)
    if isinstance(algorithm, ArrayAlgorithm):
        return shaped_array_palette(algorithm, request)
    assert isinstance(algorithm, ScalarAlgorithm)
    return shaped_palette(algorithm, request)


def _check_shape(request: Request) -> None:
    """Raises ``AlgorithmError`` for what does not go together."""
    told, whole = f"weight '{request.source.name}'", request.whole_numbers
    if request.lut_dtype is not None and request.lut_dtype not in LUT_DTYPES:
        raise AlgorithmError(f"{told}: lut_dtype is {request.lut_dtype!r}; use one of {list(LUT_DTYPES)}, or None")
    for name, value in (("lut_dtype", request.lut_dtype), ("scale_axis", request.scale_axis)):
        if whole and value is not None:
            raise AlgorithmError(f"{told} is {request.source.dtype}, whose tables have no {name}; leave it out")
    extras = {"mask": request.mask, "scale_axis": request.scale_axis, "importance": request.importance}
    found = [name for name, value in extras.items() if value is not None]
    if request.cluster_dim > 1 and (found or whole):
        what = found[0] if found else str(request.source.dtype)
        raise AlgorithmError(f"{told}: {what} needs scalars, but cluster_dim is {request.cluster_dim}; use 1")


def _scale_axis(source: Source, axis: int | None) -> int | None:
    rank = len(source.shape)
    if axis is not None and not -rank <= axis < rank:
        raise AlgorithmError(f"weight '{source.name}' has {rank} axes; scale_axis {axis} is none of them")
    return None if axis is None else axis % rank


def _algorithm(name: str, mode: str, cluster_dim: int) -> ScalarAlgorithm | ArrayAlgorithm | VectorAlgorithm:
    if mode not in ALGORITHMS:
        raise AlgorithmError(f"weight '{name}': no palettization mode {mode!r}; use one of {sorted(ALGORITHMS)}")
    if cluster_dim < 1:
        raise AlgorithmError(f"weight '{name}': cluster_dim is {cluster_dim}; use 1 for scalars, 2 or more for vectors")
    if cluster_dim == 1:
        return ALGORITHMS[mode]
    if mode not in VECTOR_ALGORITHMS:
        raise AlgorithmError(
            f"weight '{name}': Vector palettization (cluster_dim > 1) doesn't support {mode.upper()} mode. "
            f"Use one of {sorted(VECTOR_ALGORITHMS)}, or cluster_dim=1"
        )
    return VECTOR_ALGORITHMS[mode]


def _check_nbits(name: str, mode: str, nbits: int | None, allowed: Sequence[int], chooses: bool) -> None:
    if chooses and nbits is not None:
        raise AlgorithmError(f"weight '{name}': mode '{mode}' chooses nbits itself, but nbits is {nbits}; leave it out")
    if not chooses and nbits not in allowed:
        raise AlgorithmError(f"weight '{name}': mode '{mode}' with nbits {nbits}; use one of {list(allowed)}")


def _groups(source: Source, axis: int | None, group_size: int | None, cluster_dim: int) -> tuple[int, int]:
    """The axis (not negative) and the number of groups along it."""
    if cluster_dim == 1 and (axis is None or group_size is None):
        return 0, 1
    if axis is None:
        raise AlgorithmError(f"weight '{source.name}': cluster_dim {cluster_dim} needs an axis for the vectors")
    rank = len(source.shape)
    if not -rank <= axis < rank:
        raise AlgorithmError(f"weight '{source.name}' has {rank} axes; axis {axis} is none of them")
    channels = source.shape[axis]
    size = channels if group_size is None else group_size
    if size < 1 or channels % size:
        raise AlgorithmError(
            f"weight '{source.name}': {channels} channels along axis {axis} cannot be split into groups of {size}"
        )
    if size % cluster_dim:
        raise AlgorithmError(
            f"weight '{source.name}': {size} channels of a look-up table along axis {axis} cannot be split into "
            f"vectors of {cluster_dim}; use a cluster_dim that divides them"
        )
    return axis % rank, channels // size
