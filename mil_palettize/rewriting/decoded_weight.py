"""The values a compressed constant stands for, as the palette algorithms read them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mil_palettize.package.blob import WINDOW_BYTES
from mil_palettize.program.site_values import dense
from mil_palettize.program.sites import Site
from mil_palettize.program.store import Store
from mil_palettize.program.values import NUMPY_TYPES


@dataclass(frozen=True)
class DecodedWeight:
    """A ``Source`` that decodes a constant when its values are first asked for, and holds them as long as it lives.

    Its windows are those of the same values stored dense, so that the same palette is made of either.
    """

    store: Store
    site: Site

    @property
    def name(self) -> str:
        return self.site.weight.key

    @property
    def shape(self) -> tuple[int, ...]:
        return self.site.weight.shape

    @property
    def dtype(self) -> np.dtype:
        return NUMPY_TYPES[self.site.op.outputs[0].type.tensorType.dataType]

    @cached_property
    def _values(self) -> np.ndarray:
        array = dense(self.site, self.store)
        assert array is not None
        return np.ascontiguousarray(array)

    def windows(self) -> Iterator[np.ndarray]:
        """Consecutive 1-D pieces in C order, each but the last of ``WINDOW_BYTES``."""
        step = WINDOW_BYTES // self.dtype.itemsize
        flat = self._values.reshape(-1)
        for start in range(0, flat.size, step):
            yield flat[start : start + step]

    def read(self) -> np.ndarray:
        """The whole array. Raises BlobError when parts are damaged."""
        return self._values

    def part(self, start: int, stop: int) -> np.ndarray:
        """Elements ``start .. stop - 1`` in C order, 1-D."""
        return self._values.reshape(-1)[start:stop]
