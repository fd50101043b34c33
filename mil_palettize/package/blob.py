"""``weight.bin`` files, checked on reading and streamed on writing.

Format: MIL blob storage version 2, coremltools ``mlmodel/src/MILBlob/Blob/StorageFormat.hpp``. All integers
are little-endian. A header of 64 bytes (uint32 count, uint32 version, zeros) is followed by records: 64
bytes of metadata (uint32 sentinel, uint32 data type, uint64 size, uint64 offset, uint64 padding bits, 32
reserved bytes) and the data, both at multiples of 64. A program points at the metadata.
"""

from __future__ import annotations

import math
import os
import stat
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from mil_palettize.errors import BlobError
from mil_palettize.package.disk import OutputFile

ALIGNMENT = 64
SENTINEL = 0xDEADBEEF
VERSION = 2
WINDOW_BYTES = 4 << 20

# Blob data type codes of elements smaller than a byte -> bits (BlobDataType.hpp).
SUB_BYTE_BITS = {8: 4, 9: 1, 10: 2, 11: 4, 12: 3, 13: 6}

_HEADER = struct.Struct("<II56s")
_METADATA = struct.Struct("<IIQQQ32s")
# macOS refuses single reads of 2 GiB and more.
_LARGEST_READ = 1 << 26

_DAMAGED = "; the package is damaged: save, copy or download it again"

Bytes = bytes | bytearray | memoryview | np.ndarray


@dataclass(frozen=True)
class BlobRecord:
    """One metadata record as stored; ``size`` and both offsets in bytes, ``reserved`` 32 bytes.

    ``padding_bits`` (unused bits at the end of the data) means something only for the data types of
    :data:`SUB_BYTE_BITS`: coremltools before 8 left this field and the reserved ones uninitialized.
    """

    metadata_offset: int
    data_type: int
    size: int
    offset: int
    padding_bits: int
    reserved: bytes

    @property
    def end(self) -> int:
        return self.offset + self.size


class BlobReader:
    """A ``weight.bin`` read by position, never mapped: peak memory does not follow the file's size.

    Reads are safe from several threads. Raises BlobError when the file is no blob file of version 2; every
    method raises it for a record or data the file does not hold, and for a failed or short read.
    """

    size: int  # of the file, in bytes
    _fd = -1

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._records: dict[int, BlobRecord] = {}  # those that were checked already, by metadata offset
        try:
            # Opening a named pipe would wait for a writer.
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            status = os.fstat(self._fd)
        except (OSError, ValueError) as error:
            self.close()
            raise BlobError(f"cannot open the weight file {self.path}: {error}") from error
        self.size = status.st_size
        try:
            self._count = self._check_header(stat.S_ISREG(status.st_mode))
        except BlobError:
            self.close()
            raise

    def _check_header(self, regular: bool) -> int:
        if not regular:
            raise BlobError(f"the weight file {self.path} is not a regular file")
        if self.size < _HEADER.size:
            raise BlobError(
                f"the weight file {self.path} has {self.size} bytes, fewer than its header's {_HEADER.size}; "
                "it is truncated: copy or download the package again"
            )
        count, version, _ = _HEADER.unpack(self._bytes(0, _HEADER.size))
        if version != VERSION:
            raise BlobError(
                f"the weight file {self.path} says format version {version}, only {VERSION} can be read; it "
                "is damaged, or not the weight file of an ML Program"
            )
        return count

    def record(self, metadata_offset: int, *, used_by: str) -> BlobRecord:
        """The record whose metadata is at byte ``metadata_offset``, checked against the file.

        ``used_by``: the weight that points there, for the error.
        """
        if metadata_offset not in self._records:
            self._records[metadata_offset] = self._checked(metadata_offset, used_by)
        return self._records[metadata_offset]

    def _checked(self, metadata_offset: int, used_by: str) -> BlobRecord:
        where = f"the record at byte {metadata_offset} of {self.path}, used by {used_by!r},"
        if metadata_offset % ALIGNMENT or metadata_offset < _HEADER.size:
            raise BlobError(f"{where} is not at a multiple of {ALIGNMENT} after the header{_DAMAGED}")
        if metadata_offset + _METADATA.size > self.size:
            raise BlobError(f"{where} is past the end of the file ({self.size} bytes){_DAMAGED}")
        stored = self._bytes(metadata_offset, _METADATA.size)
        sentinel, data_type, size, offset, padding_bits, reserved = _METADATA.unpack(stored)
        record = BlobRecord(metadata_offset, data_type, size, offset, padding_bits, reserved)
        if sentinel != SENTINEL:
            raise BlobError(f"{where} begins with {sentinel:#010x}, not {SENTINEL:#010x}{_DAMAGED}")
        if offset % ALIGNMENT or offset < metadata_offset + _METADATA.size:
            raise BlobError(f"{where} has its data at byte {offset}, not at a later multiple of 64{_DAMAGED}")
        if record.end > self.size:
            raise BlobError(
                f"{where} has {size} bytes of data at byte {offset}, past the end of the file "
                f"({self.size} bytes){_DAMAGED}"
            )
        if data_type in SUB_BYTE_BITS and padding_bits >= 8:
            raise BlobError(f"{where} has {padding_bits} padding bits, at most 7 are possible{_DAMAGED}")
        return record

    def check_overlaps(self, used: Mapping[int, str]) -> None:
        """Raise BlobError when records that a program uses share bytes.

        ``used``: metadata offset -> the weight that points there.
        """
        spans = []
        for metadata_offset, name in used.items():
            record = self.record(metadata_offset, used_by=name)
            spans.append((metadata_offset, metadata_offset + _METADATA.size, name))
            if record.size:
                spans.append((record.offset, record.end, name))
        last_end, last_name = 0, ""
        for start, end, name in sorted(spans):
            if start < last_end:
                raise BlobError(
                    f"the records of {last_name!r} and {name!r} overlap at byte {start} of {self.path}{_DAMAGED}"
                )
            last_end, last_name = end, name

    def read(self, record: BlobRecord, start: int = 0, length: int | None = None) -> np.ndarray:
        """Bytes ``start`` to ``start + length`` (default: to the end) of the data: a new uint8 array."""
        if length is None:
            length = record.size - start
        if min(start, length) < 0 or start + length > record.size or record.end > self.size:
            raise BlobError(
                f"bytes {start} to {start + length} were asked for of the record at byte "
                f"{record.metadata_offset} of {self.path}, which has {record.size}"
            )
        data = np.empty(length, np.uint8)
        self._fill(record.offset + start, data.data)
        return data

    def array(
        self, record: BlobRecord, dtype: np.dtype | type | str, shape: tuple[int, ...], *, used_by: str
    ) -> np.ndarray:
        """The data as a new array of ``shape`` and (little-endian) ``dtype``, which must use up all of it."""
        dtype = np.dtype(dtype)
        needed = math.prod(int(size) for size in shape) * dtype.itemsize
        if needed != record.size or min(shape, default=1) < 0:
            raise BlobError(
                f"{used_by!r} is {dtype}{list(shape)}, {needed} bytes, but its record at byte "
                f"{record.metadata_offset} of {self.path} holds {record.size}{_DAMAGED}"
            )
        try:
            return self.read(record).view(dtype).reshape(shape)
        except ValueError as error:  # more axes than numpy has, or none of them and a product that wraps around
            raise BlobError(f"{used_by!r} has a shape that cannot be held, {list(shape)[:8]}: {error}") from error

    def windows(self, record: BlobRecord, window_bytes: int = WINDOW_BYTES) -> Iterator[np.ndarray]:
        """The data from front to back as new uint8 arrays of at most ``window_bytes``."""
        for start in range(0, record.size, window_bytes):
            yield self.read(record, start, min(window_bytes, record.size - start))

    def all_records(self) -> list[BlobRecord]:
        """Every record, found as ``StorageReader::GetAllOffsets`` does: as many as the header counts."""
        records: list[BlobRecord] = []
        position = _HEADER.size
        for index in range(self._count):
            record = self.record(position, used_by=f"record {index + 1} of {self._count}")
            records.append(record)
            position = aligned(record.end)
        return records

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _bytes(self, offset: int, length: int) -> bytes:
        buffer = bytearray(length)
        self._fill(offset, memoryview(buffer))
        return bytes(buffer)

    def _fill(self, offset: int, buffer: memoryview) -> None:
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(self._fd, [buffer[done : done + _LARGEST_READ]], offset + done)
            except OSError as error:
                raise BlobError(f"cannot read the weight file {self.path}: {error.strerror}") from error
            if count == 0:
                raise BlobError(
                    f"the weight file {self.path} ends at byte {offset + done}, {self.size} were there when "
                    "it was opened; something else is writing to it"
                )
            done += count

    def __del__(self) -> None:
        """Modules that are run keep their package open for as long as they are held."""
        self.close()

    def __enter__(self) -> BlobReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class BlobWriter:
    """A new ``weight.bin``, streamed: the same bytes coremltools' ``BlobStorageWriter`` writes.

    Raises PackageError when ``path`` exists or a write fails (it names the file and the bytes still to be
    written). Where the ``with`` block is left by an exception, the header keeps a count of 0, so that what
    was written so far cannot be taken for a complete file.
    """

    count: int  # of records so far

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.count = 0
        self._file = OutputFile(self.path)
        self._file.write(_HEADER.pack(0, VERSION, b""))

    def append(
        self, data_type: int, data: Bytes | Iterable[Bytes], *, size: int | None = None, padding_bits: int = 0
    ) -> int:
        """Write one record and return its metadata offset.

        ``data``: a buffer, or buffers to be joined; arrays are written in C order, little-endian.
        ``size``: bytes in all, checked when given. ``padding_bits``: unused bits of the last byte, 0 to 7.
        Raises BlobError when ``size`` or ``padding_bits`` cannot be.
        """
        if not 0 <= padding_bits < 8 or (padding_bits and data_type not in SUB_BYTE_BITS):
            raise BlobError(f"{padding_bits} padding bits cannot be stored with data type {data_type}")
        if isinstance(data, Bytes):
            data = (whole := _flat(data),)
            size = whole.nbytes if size is None else size
        return self._append(data_type, data, size, padding_bits, bytes(32))

    def copy(
        self,
        reader: BlobReader,
        record: BlobRecord,
        *,
        data_type: int | None = None,
        padding_bits: int | None = None,
    ) -> int:
        """Write a record of another file again and return its new metadata offset.

        The metadata stays the same but for the data's offset, unless a ``data_type`` (then the padding is
        0 where not given) or ``padding_bits`` are asked for.
        """
        if padding_bits is None:
            padding_bits = record.padding_bits if data_type is None else 0
        data_type = record.data_type if data_type is None else data_type
        return self._append(data_type, reader.windows(record), record.size, padding_bits, record.reserved)

    def close(self) -> None:
        """Write the count into the header, sync and close. Raises PackageError if any write failed."""
        if not self._file.closed:
            with self._file as file:
                file.write_at(0, _HEADER.pack(self.count, VERSION, b""))

    def _append(
        self, data_type: int, data: Iterable[Bytes], size: int | None, padding_bits: int, reserved: bytes
    ) -> int:
        start = aligned(self._file.size)
        offset = start + _METADATA.size
        with self._file.unbroken():
            self._file.write(bytes(start - self._file.size))
            self._file.write(_METADATA.pack(SENTINEL, data_type, size or 0, offset, padding_bits, reserved))
            for piece in data:
                self._file.write(_flat(piece))
            written = self._file.size - offset
            if size is not None and written != size:
                raise BlobError(f"{written} bytes came for a record of {size} bytes in {self.path}")
            if size is None:
                metadata = _METADATA.pack(SENTINEL, data_type, written, offset, padding_bits, reserved)
                self._file.write_at(start, metadata)
        self.count += 1
        return start

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._file.abandon()


def aligned(offset: int) -> int:
    """The first multiple of 64 from ``offset`` on."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def _flat(data: Bytes) -> memoryview:
    if isinstance(data, np.ndarray):
        return np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
    return memoryview(data).cast("B")
