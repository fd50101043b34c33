"""The data behind a program's values: in the message itself or in the package's weight files."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from mil_palettize.errors import BlobError
from mil_palettize.expressions.weight_expr import Packed
from mil_palettize.package.blob import WINDOW_BYTES, BlobReader, BlobRecord
from mil_palettize.package.mlpackage import Package
from mil_palettize.program.blob_uses import BlobUse
from mil_palettize.program.sites import Site
from mil_palettize.program.values import BLOB_TYPES, MIL, NUMPY_TYPES, immediate_array, static_shape, value_nbytes

_SAMPLE_BYTES = 1 << 16


class Store:
    """Checked access to the data of values. Weight files are opened when first needed and read by position, so
    that reads are safe from several threads; use as a context manager."""

    def __init__(self, package: Package) -> None:
        self.package = package
        self._readers: dict[Path, BlobReader] = {}
        self._named: dict[str, BlobReader] = {}  # by what programs call them
        self._located: dict[tuple[str, int], tuple[BlobReader, BlobRecord]] = {}

    def reader(self, file_name: str, *, used_by: str) -> BlobReader:
        """The weight file a program calls ``file_name``. Raises PackageError when it cannot be opened."""
        if file_name not in self._named:
            path = self.package.weight_path(file_name, used_by=used_by)
            if path not in self._readers:
                self._readers[path] = BlobReader(path)
            self._named[file_name] = self._readers[path]
        return self._named[file_name]

    def locate(self, value: MIL.Value, *, used_by: str) -> tuple[BlobReader, BlobRecord]:
        """Where a blob value's data lies. Raises BlobError when the record is damaged."""
        where = value.blobFileValue.fileName, int(value.blobFileValue.offset)
        if where not in self._located:
            reader = self.reader(where[0], used_by=used_by)
            self._located[where] = reader, reader.record(where[1], used_by=used_by)
        return self._located[where]

    def raw(self, value: MIL.Value, *, used_by: str) -> np.ndarray:
        """The bytes of a tensor value as stored, uint8."""
        if value.WhichOneof("value") == "blobFileValue":
            reader, record = self.locate(value, used_by=used_by)
            return reader.read(record)
        tensor = value.immediateValue.tensor
        if tensor.WhichOneof("value") == "bytes":
            return np.frombuffer(tensor.bytes.values, np.uint8)
        array = immediate_array(value)
        if array is None:
            raise BlobError(f"the value of {used_by!r} is no tensor of numbers")
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8)

    def array(self, value: MIL.Value, *, used_by: str) -> np.ndarray:
        """The tensor of a value whose type numpy has. Raises BlobError when sizes disagree."""
        shape = static_shape(value.type)
        dtype = NUMPY_TYPES.get(value.type.tensorType.dataType)
        if shape is None or dtype is None:
            raise BlobError(f"the value of {used_by!r} has no fixed shape or no type numpy can hold")
        if value.WhichOneof("value") == "blobFileValue":
            reader, record = self.locate(value, used_by=used_by)
            return reader.array(record, dtype, shape, used_by=used_by)
        array = immediate_array(value)
        if array is None:
            raise BlobError(f"the value of {used_by!r} does not hold the {math.prod(shape)} elements of its type")
        return array

    def packed(
        self, value: MIL.Value, nbits: int, shape: tuple[int, ...], *, used_by: str, signed: bool = False
    ) -> Packed:
        """Integers stored as packed bits. Raises BlobError when there are too few or too many."""
        raw = self.raw(value, used_by=used_by)
        try:
            return Packed(raw, nbits, shape, signed)
        except ValueError as error:
            raise BlobError(f"the packed values of {used_by!r} do not fit its shape: {error}") from error

    def check(self, uses: list[BlobUse]) -> None:
        """Every blob value of a model: its record is sound, of the size its type says, and overlaps no other."""
        by_reader: dict[Path, dict[int, str]] = {}
        for use in uses:
            reader, record = self.locate(use.value, used_by=use.owner)
            _check_size(use, reader, record)
            by_reader.setdefault(reader.path, {})[record.metadata_offset] = use.owner
        for path, used in by_reader.items():
            self._readers[path].check_overlaps(used)

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("open weight files cannot be sent to another process; send references")


def _check_size(use: BlobUse, reader: BlobReader, record: BlobRecord) -> None:
    shape = static_shape(use.value.type)
    data_type = use.value.type.tensorType.dataType
    if shape is None or data_type not in BLOB_TYPES:
        return
    needed = value_nbytes(use.value)
    if needed != record.size:
        raise BlobError(
            f"{use.owner!r} needs {needed} bytes by its shape {list(shape)}, but its record at byte "
            f"{record.metadata_offset} of {reader.path} holds {record.size}; the package is damaged: save it again"
        )


def _elements(reader: BlobReader, record: BlobRecord, dtype: np.dtype, start: int, stop: int) -> np.ndarray:
    return reader.read(record, start * dtype.itemsize, (stop - start) * dtype.itemsize).view(dtype)


@dataclass(frozen=True)
class StoredWeight:
    """A constant's values as the palette algorithms read them (their ``Source``)."""

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
        """Of what a compressed constant stands for, whose own values are not read through this."""
        value_type = self.site.op.outputs[0].type if self.site.weight.joint else self.site.value.type
        return NUMPY_TYPES[value_type.tensorType.dataType]

    def reference(self) -> WeightReference | None:
        """The same for another process; None for values that stand in the program."""
        if self.site.weight.storage is None:
            return None
        reader, record = self.store.locate(self.site.value, used_by=self.name)
        sample = zlib.crc32(reader.read(record, 0, min(record.size, _SAMPLE_BYTES)).data)
        return WeightReference(self.name, str(reader.path), record.metadata_offset, self.shape, self.dtype, sample)

    def windows(self) -> Iterator[np.ndarray]:
        """Consecutive 1-D pieces in C order, each but the last of ``WINDOW_BYTES``."""
        if self.site.weight.storage is None:
            yield self.read().reshape(-1)
            return
        reader, record = self.store.locate(self.site.value, used_by=self.name)
        for window in reader.windows(record, WINDOW_BYTES):
            yield window.view(self.dtype)

    def read(self) -> np.ndarray:
        """The whole array."""
        return self.store.array(self.site.value, used_by=self.name)

    def part(self, start: int, stop: int) -> np.ndarray:
        """Elements ``start .. stop - 1`` in C order, 1-D."""
        if self.site.weight.storage is None:
            return self.read().reshape(-1)[start:stop]
        return _elements(*self.store.locate(self.site.value, used_by=self.name), self.dtype, start, stop)


@dataclass(frozen=True)
class WeightReference:
    """Where a constant's values lie in a weight file: a ``Source`` that can be sent to another process, which reads
    them itself. ``offset``: of the metadata record; ``sample``: CRC-32 of the first 64 kB of the values.

    Reading raises BlobError where another file lies at ``path``, as it may on another machine.
    """

    name: str
    path: str
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype
    sample: int

    def windows(self) -> Iterator[np.ndarray]:
        """As :class:`StoredWeight`."""
        with self._opened() as (reader, record):
            for window in reader.windows(record, WINDOW_BYTES):
                yield window.view(self.dtype)

    def read(self) -> np.ndarray:
        """The whole array."""
        with self._opened() as (reader, record):
            return reader.array(record, self.dtype, self.shape, used_by=self.name)

    def part(self, start: int, stop: int) -> np.ndarray:
        """As :class:`StoredWeight`."""
        with self._opened() as (reader, record):
            return _elements(reader, record, self.dtype, start, stop)

    @contextmanager
    def _opened(self) -> Iterator[tuple[BlobReader, BlobRecord]]:
        with BlobReader(Path(self.path)) as reader:
            record = reader.record(self.offset, used_by=self.name)
            found = reader.read(record, 0, min(record.size, _SAMPLE_BYTES))
            if record.size != math.prod(self.shape) * self.dtype.itemsize or zlib.crc32(found.data) != self.sample:
                raise BlobError(
                    f"{self.path} holds other values of {self.name!r} than when the run began; give every worker the "
                    "same files, and leave the package alone meanwhile"
                )
            yield reader, record
