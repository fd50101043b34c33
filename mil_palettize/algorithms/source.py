"""Where the values of a weight come from, in windows so that memory does not follow the weight."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NoReturn, Protocol

import numpy as np

from mil_palettize.errors import AlgorithmError

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
