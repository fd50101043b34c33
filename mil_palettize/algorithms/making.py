"""Palettes of weights: ``make_palette``, which any of the algorithms in the registry makes (numpy and numba only)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from mil_palettize.algorithms.array_palette import array_palette
from mil_palettize.algorithms.distribution import Distribution, describe
from mil_palettize.algorithms.options import LUT_DTYPES
from mil_palettize.algorithms.palette import ArrayAlgorithm, Palette, Request, ScalarAlgorithm
from mil_palettize.algorithms.quantized_grid import UnquantizableError
from mil_palettize.algorithms.registry import ALGORITHMS, Algorithm, implementation
from mil_palettize.algorithms.scalar.grouped import grouped_palette
from mil_palettize.algorithms.scalar.masked_scaled import shaped_palette
from mil_palettize.algorithms.scalar.masked_scaled_custom import shaped_array_palette
from mil_palettize.algorithms.scalar.per_tensor import tensor_palette
from mil_palettize.algorithms.scalar.unique import TooManyValuesError
from mil_palettize.algorithms.source import ArraySource, NonFiniteError, Source, WatchedSource
from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.algorithms.vector.palettes import VectorAlgorithm, vector_palette
from mil_palettize.algorithms.vector.shaped import shaped_vector_palette
from mil_palettize.errors import AlgorithmError
from mil_palettize.expressions.packed import Packed

__all__ = [
    "ArraySource",
    "Distribution",
    "NonFiniteError",
    "Palette",
    "Source",
    "TooManyValuesError",
    "UnquantizableError",
    "WatchedSource",
    "describe",
    "make_palette",
]


def make_palette(
    source: Source,
    specification: PaletteSpecification,
    *,
    pmap: Callable[..., Iterable[Any]] = map,
    mask: Packed | None = None,
    importance: np.ndarray | None = None,
    distinct: Callable[[Source], Distribution] = describe,
) -> Palette:
    """Make the palette of a weight (float16, float32, int8 or uint8, at least one element, any rank from 1).

    ``pmap``: like ``map``, may run on threads. The same input gives the same bytes whatever ``pmap`` and the
    windows of the source are. ``distinct``: like :func:`describe`, which may know the weight already; asked for
    palettes of one plain table.

    One by one or together; the squared error of what is decoded in the end is made small:

    - ``mask``: 1 bit, of the shape of the indices: the weight's, of vectors a bit for each. Only what it is set for
      counts; the others decode to 0.
    - ``scale_axis`` of the specification: entries are multiplied by a scale for each channel along this axis, of the
      weight's dtype. The weight is float.
    - ``lut_dtype`` of the specification: all tables are stored in it, each with a scale (and for uint8 a zero point) of
      its own. The weight is float.
    - ``importance``: positive floats of the weight's rank; each size divides the weight's, an element holds for a
      block. The sum of importance times squared error is made small, and ``sse`` and ``signal`` are weighted.

    A table of an int8 or uint8 weight is of the same dtype, and of scalars; ``lut_function`` then sees int32. The
    palette's expression is a ``Lut``, with ``scale_axis`` in a ``Scale``, with ``mask`` in a ``Sparse`` (outermost).

    Raises ``AlgorithmError``: ``NonFiniteError``, ``TooManyValuesError``, ``UnquantizableError`` (mode "unique" with
    ``scale_axis`` or ``lut_dtype``), a wrong ``lut_function``, a wrong request.
    """
    name, cluster_dim = source.name, specification.cluster_dim
    facts = _facts(name, specification.mode, cluster_dim)
    _check_nbits(name, specification, facts)
    if source.dtype not in (np.float16, np.float32, np.int8, np.uint8):
        raise AlgorithmError(f"weight '{name}' is {source.dtype}; a palette is made of float16, float32, int8 or uint8")
    axis, groups = _groups(source, specification.axis, specification.group_size, cluster_dim)
    scale_axis = _scale_axis(source, specification.scale_axis)
    request = Request(source, specification, axis, groups, scale_axis, pmap, mask, importance, distinct)
    algorithm = _loaded(facts, cluster_dim)
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
        return shaped_vector_palette(algorithm, request)
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
    if request.cluster_dim > 1 and whole:
        dtype, dim = request.source.dtype, request.cluster_dim
        raise AlgorithmError(f"{told}: {dtype} needs scalars, but cluster_dim is {dim}; use 1")


def _scale_axis(source: Source, axis: int | None) -> int | None:
    rank = len(source.shape)
    if axis is not None and not -rank <= axis < rank:
        raise AlgorithmError(f"weight '{source.name}' has {rank} axes; scale_axis {axis} is none of them")
    return None if axis is None else axis % rank


def _facts(name: str, mode: str, cluster_dim: int) -> Algorithm:
    if mode not in ALGORITHMS:
        raise AlgorithmError(f"weight '{name}': no palettization mode {mode!r}; use one of {sorted(ALGORITHMS)}")
    if cluster_dim < 1:
        raise AlgorithmError(f"weight '{name}': cluster_dim is {cluster_dim}; use 1 for scalars, 2 or more for vectors")
    facts = ALGORITHMS[mode]
    if cluster_dim > 1 and not facts.has_vectors:
        raise AlgorithmError(
            f"weight '{name}': Vector palettization (cluster_dim > 1) doesn't support {mode.upper()} mode. "
            f"Use one of {sorted(other for other in ALGORITHMS if ALGORITHMS[other].has_vectors)}, or cluster_dim=1"
        )
    return facts


def _loaded(facts: Algorithm, cluster_dim: int) -> ScalarAlgorithm | ArrayAlgorithm | VectorAlgorithm:
    """The algorithm for scalars or vectors; imports it on first use."""
    if facts.codes:
        return ArrayAlgorithm(implementation(facts.codes))
    if cluster_dim > 1:
        return VectorAlgorithm(implementation(facts.vector_entries), facts.lossless)
    of_groups = implementation(facts.entries_of_groups) if facts.entries_of_groups else None
    return ScalarAlgorithm(implementation(facts.entries), of_groups, facts.lossless, facts.optimal)


def _check_nbits(name: str, specification: PaletteSpecification, facts: Algorithm) -> None:
    mode, nbits, allowed = specification.mode, specification.nbits, specification.allowed_nbits
    if facts.chooses_nbits and nbits is not None:
        raise AlgorithmError(f"weight '{name}': mode '{mode}' chooses nbits itself, but nbits is {nbits}; leave it out")
    if not facts.chooses_nbits and nbits not in allowed:
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
