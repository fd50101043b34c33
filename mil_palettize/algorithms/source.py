"""Where the values of a weight come from, in windows so that memory does not follow the weight."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NoReturn, Protocol

import numpy as np

from mil_palettize.errors import AlgorithmError, BlobError

WINDOW = 1 << 20  # elements; a multiple of 64, so that a window's packed indices are whole bytes


class Source(Protocol):
    """A weight to be palettized; ``name`` is for messages. ``dtype``: little-endian float16 or float32."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def windows(self) -> Iterator[np.ndarray]:
        """Consecutive 1-D pieces in C order, each but the last a multiple of 64 elements; every call reads again."""

    def read(self) -> np.ndarray:
        """The whole array."""

    def part(self, start: int, stop: int) -> np.ndarray:
        """Elements ``start .. stop - 1`` in C order, 1-D."""


@dataclass(frozen=True)
class ArraySource:
    """A ``Source`` over an array in memory."""

    name: str
    array: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    def windows(self) -> Iterator[np.ndarray]:
        flat = self.read().reshape(-1)
        for start in range(0, flat.size, WINDOW):
            yield flat[start : start + WINDOW]

    def read(self) -> np.ndarray:
        return np.ascontiguousarray(self.array)

    def part(self, start: int, stop: int) -> np.ndarray:
        return self.read().reshape(-1)[start:stop]


class WatchedSource:
    """A ``Source`` whose passes over all values have to agree: what several passes make is of one weight.

    The sum of the values' 8-byte words is compared, which costs nearly nothing beside reading them. Raises BlobError at
    the end of a pass that has read something else than the one before. Not for several threads at once.
    """

    def __init__(self, source: Source) -> None:
        self.name, self.shape, self.dtype = source.name, source.shape, source.dtype
        self._source = source
        self._sum: int | None = None

    def windows(self) -> Iterator[np.ndarray]:
        total = 0
        for window in self._source.windows():
            total += _sum_of_words(window)
            yield window
        self._compare(total)

    def read(self) -> np.ndarray:
        array = self._source.read()
        self._compare(_sum_of_words(array))
        return array

    def part(self, start: int, stop: int) -> np.ndarray:
        return self._source.part(start, stop)

    def _compare(self, total: int) -> None:
        total &= (1 << 64) - 1
        if self._sum is not None and self._sum != total:
            raise BlobError(
                f"weight '{self.name}' was changed while it was read; something else is writing to the package: leave "
                "it alone and run again"
            )
        self._sum = total


def _sum_of_words(array: np.ndarray) -> int:
    """Of little-endian words of 8 bytes, the last one filled up with zeros."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    whole = flat.size - flat.size % 8
    rest = int.from_bytes(flat[whole:].tobytes(), "little")
    return int(flat[:whole].view("<u8").sum(dtype=np.uint64)) + rest


class NonFiniteError(AlgorithmError):
    """A weight holds ``nan`` NaNs and ``inf`` infinities (both kinds of sign), so that no palette fits it."""

    def __init__(self, name: str, nan: int, inf: int) -> None:
        super().__init__(
            f"weight '{name}' has {nan} NaN and {inf} infinite values, which no palette can stand for; "
            "exclude it from palettization (op_name_configs: None) or repair its values"
        )
        self.nan = nan
        self.inf = inf


def recut(windows: Iterable[np.ndarray], multiple: int) -> Iterator[np.ndarray]:
    """The same 1-D pieces cut anew, each but the last a multiple of ``multiple`` elements; copies only if it must."""
    rest = np.empty(0)
    for window in windows:
        joined = np.concatenate([rest, window], dtype=window.dtype) if rest.size else window
        whole = joined.size - joined.size % multiple
        if whole:
            yield joined[:whole]
        rest = joined[whole:].copy()
    if rest.size:
        yield rest


def raise_non_finite(source: Source) -> NoReturn:
    """Count every NaN and infinity of a weight known to have some, and raise ``NonFiniteError``."""
    nan = 0
    inf = 0
    for window in source.windows():
        nan += int(np.count_nonzero(np.isnan(window)))
        inf += int(np.count_nonzero(np.isinf(window)))
    raise NonFiniteError(source.name, nan, inf)


def frozen(array: np.ndarray) -> np.ndarray:
    """A contiguous read-only view: compiled loops see one type whether or not the source is writable."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view
