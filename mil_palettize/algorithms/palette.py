"""What the algorithms share: the kinds of algorithm, the request, the result, and tables as they are stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mil_palettize.algorithms.compiled.jit import compiled
from mil_palettize.algorithms.distribution import Distribution, describe
from mil_palettize.algorithms.source import Source
from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.expressions.packed import Packed
from mil_palettize.expressions.weight_expr import WeightExpr


@dataclass(frozen=True)
class Palette:
    """A weight's palette as it is stored: the table is rounded to the weight's dtype.

    ``expr``: a ``Lut``, whose table may be a ``Scale``; in a ``Scale`` where channels have scales, and around that in a
    ``Sparse`` where there is a mask. ``sse``: float64 sum of ``(w - decoded)**2`` over all elements that count, each
    times its importance; ``signal``: of ``w**2``.
    """

    expr: WeightExpr
    sse: float
    signal: float


@dataclass(frozen=True)
class ScalarAlgorithm:
    """Sees sorted distinct values with weights; nearest entries, packing and errors are everybody's.

    ``entries(distribution, nbits)``: at most ``2**nbits`` finite float64 values within the extremes.
    Without nbits in the request, ``nbits`` is the most allowed. ``lossless``: the palette has to be.
    ``entries_of_groups(values, weights, offsets, half, nbits)``: optional, the same for many groups at once, ascending
    (groups, 2**nbits). ``optimal``: the entries are those with the least squared error, so that other entries may take
    their place where they have less of it when stored.
    """

    entries: Callable[[Distribution, int], np.ndarray]
    entries_of_groups: Callable[..., np.ndarray] | None = None
    lossless: bool = False
    optimal: bool = False


@dataclass(frozen=True)
class ArrayAlgorithm:
    """Sees the array itself, of one look-up table at a time, and makes the indices as well.

    ``codes(array, request)``: the array is a contiguous copy of the weight, or of one group with the weight's order of
    axes. Gives entries (1-D, of the weight's dtype) and as many indices as elements (1-D, in C order). Groups come
    in order, one at a time in the whole process.
    """

    codes: Callable[[np.ndarray, Request], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Request:
    """The arguments of ``make_palette`` after validation.

    ``axis`` is not negative; one table if ``groups`` is 1. ``scale_axis`` is not negative. The last four: see
    ``make_palette``.
    """

    source: Source
    specification: PaletteSpecification
    axis: int
    groups: int
    scale_axis: int | None
    pmap: Callable[..., Iterable[Any]]
    mask: Packed | None = None
    importance: np.ndarray | None = None
    distinct: Callable[[Source], Distribution] = describe

    @property
    def nbits(self) -> int | None:
        return self.specification.nbits

    @property
    def cluster_dim(self) -> int:
        """Elements of an entry, along ``axis``."""
        return self.specification.cluster_dim

    @property
    def lut_dtype(self) -> str | None:
        return self.specification.lut_dtype

    @property
    def whole_numbers(self) -> bool:
        """Whether the weight's dtype is an integer."""
        return self.source.dtype.kind in "iu"

    @property
    def shaped(self) -> bool:
        """Whether this is more than a plain palette of floats."""
        extras = (self.mask, self.scale_axis, self.lut_dtype, self.importance)
        return self.whole_numbers or any(extra is not None for extra in extras)

    @property
    def most_nbits(self) -> int:
        """The requested nbits, or the most an algorithm may choose."""
        return max(self.specification.allowed_nbits) if self.nbits is None else self.nbits

    def nbits_for(self, entries: int) -> int:
        """The requested nbits, or the least allowed that hold ``entries``."""
        if self.nbits is not None:
            return self.nbits
        return min(nbits for nbits in self.specification.allowed_nbits if 1 << nbits >= entries)

    @property
    def indices_shape(self) -> tuple[int, ...]:
        """Of ``Lut.indices``."""
        dim = self.cluster_dim
        return tuple(size // dim if axis == self.axis else size for axis, size in enumerate(self.source.shape))

    def lut_shape(self, nbits: int) -> tuple[int, ...]:
        """Of ``Lut.lut``."""
        rank = len(self.source.shape)
        groups = [self.groups if axis == self.axis else 1 for axis in range(rank)]
        return (*groups, 1 << nbits, self.cluster_dim)


@compiled
def _drop_repeats(tables, used):  # type: ignore[no-untyped-def]
    """Move the distinct entries of each ascending row to its front and repeat the last; ``used`` counts them."""
    for row in range(tables.shape[0]):
        last = 0
        for i in range(1, tables.shape[1]):
            if tables[row, i] != tables[row, last]:
                last += 1
                tables[row, last] = tables[row, i]
        used[row] = last + 1
        for i in range(last + 1, tables.shape[1]):
            tables[row, i] = tables[row, last]


def stored_tables(entries: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Tables (groups, width) as stored, in float64, from ascending entries: rounded to ``dtype``, repeats last.

    Also gives how many entries of each are distinct, int64 (groups,).
    """
    tables = entries.astype(dtype).astype(np.float64) + 0.0
    used = np.empty(len(tables), np.int64)
    _drop_repeats(tables, used)
    return tables, used


def filled(rows: Sequence[np.ndarray], nbits: int) -> np.ndarray:
    """Rows of at most ``2**nbits`` entries, sorted, the last of each repeated: float64 (rows, 2**nbits)."""
    table = np.empty((len(rows), 1 << nbits))
    for target, row in zip(table, rows, strict=True):
        target[: len(row)] = np.sort(row)
        target[len(row) :] = target[len(row) - 1]
    return table
