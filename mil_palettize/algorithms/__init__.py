"""Palettes of weights: ``make_palette`` and the registry of algorithms (numpy and numba only)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from mil_palettize.errors import AlgorithmError

from . import custom, kmeans, uniform, unique, vector_kmeans
from .distribution import Distribution
from .grouped import grouped_palette
from .palette import ArrayAlgorithm, Palette, Request, ScalarAlgorithm
from .source import ArraySource, NonFiniteError, Source
from .tensor import tensor_palette
from .unique import TooManyValuesError
from .vector import VectorAlgorithm, vector_palette
from .whole import array_palette

ALGORITHMS: dict[str, ScalarAlgorithm | ArrayAlgorithm] = {
    "kmeans": ScalarAlgorithm(kmeans.entries, entries_of_groups=kmeans.entries_of_groups),
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
    "VectorAlgorithm",
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
) -> Palette:
    """Make the palette of a weight (float16 or float32, at least one element, any rank from 1).

    ``mode``: a name in ``ALGORITHMS``. ``nbits``: one of ``allowed_nbits``; None for "unique" and "custom", which use
    the fewest allowed that fit. ``axis`` and ``group_size``: one table per ``group_size`` (a divisor) consecutive
    channels along ``axis``; None for one table. ``cluster_dim``: with more than 1, every so many consecutive elements
    along ``axis`` share an index into a table of vectors (a name in ``VECTOR_ALGORITHMS``). ``lut_function``: for
    "custom". ``pmap``: like ``map``, may run on threads. The same input gives the same bytes whatever ``pmap`` and the
    windows of the source are.

    Raises ``AlgorithmError``: ``NonFiniteError``, ``TooManyValuesError``, a wrong ``lut_function``, a wrong request.
    """
    algorithm = _algorithm(source.name, mode, cluster_dim)
    chooses = isinstance(algorithm, ArrayAlgorithm) or algorithm.chooses_nbits
    _check_nbits(source.name, mode, nbits, allowed_nbits, chooses)
    if source.dtype not in (np.float16, np.float32):
        raise AlgorithmError(f"weight '{source.name}' is {source.dtype}; a palette is made of float16 or float32")
    axis, groups = _groups(source, axis, group_size, cluster_dim)
    request = Request(source, nbits, tuple(allowed_nbits), axis, groups, lut_function, pmap, cluster_dim)
    if isinstance(algorithm, ArrayAlgorithm):
        return array_palette(algorithm, request)
    if isinstance(algorithm, VectorAlgorithm):
        return vector_palette(algorithm, request)
    return (tensor_palette if groups == 1 else grouped_palette)(algorithm, request)


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
