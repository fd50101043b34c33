"""How long a weight file will be, and where each record will lie in it, without writing it."""

from __future__ import annotations

import numpy as np

from mil_palettize.package.blob import ALIGNMENT, BlobReader, BlobRecord, aligned

_HEADER = _METADATA = ALIGNMENT  # bytes of each


class BlobSizes:
    """Takes what a ``BlobWriter`` takes and says the same places. ``nbytes``: of the file so far."""

    def __init__(self) -> None:
        self.nbytes = _HEADER

    def append(self, data_type: int, data: np.ndarray, *, padding_bits: int = 0) -> int:
        """The metadata offset that the record will have."""
        return self._place(data.nbytes)

    def copy(
        self,
        reader: BlobReader,
        record: BlobRecord,
        *,
        data_type: int | None = None,
        padding_bits: int | None = None,
    ) -> int:
        """As :meth:`append`, for a record of another file."""
        return self._place(record.size)

    def _place(self, nbytes: int) -> int:
        start = aligned(self.nbytes)
        self.nbytes = start + _METADATA + nbytes
        return start


def record_nbytes(nbytes: int) -> int:
    """What a record with ``nbytes`` of data takes, up to where the next one begins."""
    return _METADATA + aligned(nbytes)
