"""Palettes of weights: ``make_palette`` and the registry of algorithms (numpy and numba only)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from mil_palettize.errors import AlgorithmError

from . import custom, kmeans, uniform, unique
from .distribution import Distribution
from .grouped import grouped_palette
from .palette import ArrayAlgorithm, Palette, Request, ScalarAlgorithm
from .source import ArraySource, NonFiniteError, Source
from .tensor import tensor_palette
from .unique import TooManyValuesError
from .whole import array_palette

ALGORITHMS: dict[str, ScalarAlgorithm | ArrayAlgorithm] = {
    "kmeans": ScalarAlgorithm(kmeans.entries, entries_of_groups=kmeans.entries_of_groups),
    "uniform": ScalarAlgorithm(uniform.entries),
    "unique": ScalarAlgorithm(unique.entries, chooses_nbits=True),
    "custom": ArrayAlgorithm(custom.codes),
}

__all__ = [
    "ALGORITHMS",
    "ArrayAlgorithm",
    "ArraySource",
    "Distribution",
    "NonFiniteError",
    "Palette",
    "ScalarAlgorithm",
    "Source",
    "TooManyValuesError",
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
    lut_function: Callable[[np.ndarray], Any] | None = None,
    pmap: Callable[..., Iterable[Any]] = map,
) -> Palette:
    """Make the palette of a weight (float16 or float32, at least one element, any rank from 1).

    ``mode``: a name in ``ALGORITHMS``. ``nbits``: one of ``allowed_nbits``; None for "unique" and "custom", which use
    the fewest allowed that fit. ``axis`` and ``group_size``: one table per ``group_size`` (a divisor) consecutive
    channels along ``axis``; None for one table. ``lut_function``: for "custom". ``pmap``: like ``map``, may run on
    threads. The same input gives the same bytes whatever ``pmap`` and the windows of the source are.

    Raises ``AlgorithmError``: ``NonFiniteError``, ``TooManyValuesError``, a wrong ``lut_function``, a wrong request.
    """
    algorithm = ALGORITHMS.get(mode)
    if algorithm is None:
        raise AlgorithmError(f"weight '{source.name}': no palettization mode {mode!r}; use one of {sorted(ALGORITHMS)}")
    chooses = isinstance(algorithm, ArrayAlgorithm) or algorithm.chooses_nbits
    _check_nbits(source.name, mode, nbits, allowed_nbits, chooses)
    if source.dtype not in (np.float16, np.float32):
        raise AlgorithmError(f"weight '{source.name}' is {source.dtype}; a palette is made of float16 or float32")
    axis, groups = _groups(source, axis, group_size)
    request = Request(source, nbits, tuple(allowed_nbits), axis, groups, lut_function, pmap)
    if isinstance(algorithm, ArrayAlgorithm):
        return array_palette(algorithm, request)
    return (tensor_palette if groups == 1 else grouped_palette)(algorithm, request)


def _check_nbits(name: str, mode: str, nbits: int | None, allowed: Sequence[int], chooses: bool) -> None:
    if chooses and nbits is not None:
        raise AlgorithmError(f"weight '{name}': mode '{mode}' chooses nbits itself, but nbits is {nbits}; leave it out")
    if not chooses and nbits not in allowed:
        raise AlgorithmError(f"weight '{name}': mode '{mode}' with nbits {nbits}; use one of {list(allowed)}")


def _groups(source: Source, axis: int | None, group_size: int | None) -> tuple[int, int]:
    """The axis (not negative) and the number of groups along it."""
    if axis is None or group_size is None:
        return 0, 1
    rank = len(source.shape)
    if not -rank <= axis < rank:
        raise AlgorithmError(f"weight '{source.name}' has {rank} axes; axis {axis} is none of them")
    channels = source.shape[axis]
    if group_size < 1 or channels % group_size:
        raise AlgorithmError(
            f"weight '{source.name}': {channels} channels along axis {axis} cannot be split into groups of {group_size}"
        )
    return axis % rank, channels // group_size
