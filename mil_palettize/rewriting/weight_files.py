"""The weight files of a package written anew: each record of the source in its order, new data in front of it.

Nothing but one piece of new data is held in memory at a time, and the order is the source's whatever happens on other
threads, so that the result is the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from mil_palettize.errors import BlobError
from mil_palettize.package.blob import BlobReader, BlobRecord, BlobWriter
from mil_palettize.package.blob_sizes import BlobSizes
from mil_palettize.package.disk import make_folders
from mil_palettize.program.blob_uses import BlobUse
from mil_palettize.program.model import Model
from mil_palettize.program.palette_ops import Append
from mil_palettize.program.values import BLOB_TYPES, static_shape

Job = TypeVar("Job")
Blobs = BlobWriter | BlobSizes
Stored = tuple[int, int]  # blob data type code, padding bits


@dataclass(eq=False)
class _Record(Generic[Job]):
    """A record of a source's weight file, what points at it, and what is stored in front of it. ``needed``: how many
    of its uses are left, by how each needs it stored."""

    reader: BlobReader
    record: BlobRecord
    file_name: str
    uses: list[BlobUse] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    needed: Counter[Stored] = field(default_factory=Counter)
    moved: dict[Stored, int] = field(default_factory=dict)


class WeightFiles(Generic[Job]):
    """Every record that ``model`` points at, and the jobs: whatever stores new data at one of these places.

    A record is copied as long as something still points at it, once for each type it is needed as (a move to a later
    opset may have given values other types than their records have). What points at it afterwards is changed in
    ``model``.

    ``in_program``: jobs of values that stand in the program itself, to be added to; they get nowhere to append.
    ``apart``, once written: the jobs in front of records in whose place several are stored.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._files: dict[Path, dict[int, _Record[Job]]] = {}
        self._tails: dict[Path, list[Job]] = {}
        self.in_program: list[Job] = []
        self.apart: list[Job] = []
        for use in model.blob_uses():
            reader, record = model.store.locate(use.value, used_by=use.owner)
            of_file = self._files.setdefault(reader.path, {})
            found = of_file.setdefault(use.offset, _Record(reader, record, use.file_name))
            found.uses.append(use)
            found.needed[self._stored(use, record)] += 1
        self._first_uses = model.first_uses()

    @property
    def paths(self) -> list[Path]:
        """The source's weight files, in the order in which they are written."""
        return sorted(self._files)

    def place_of(self, uses: Iterable[BlobUse], function: str) -> list[Job]:
        """The jobs at the place of what is stored by ``uses``, to be added to: those in front of its first record.
        Without any, those at the end of the first weight file that the program of ``function`` uses; where it uses
        none, those of the program itself."""
        first = min(uses, key=lambda use: (self._path(use), use.offset), default=None)
        if first is not None:
            return self._record(first).jobs
        use = self._first_uses.get(function)
        return self.in_program if use is None else self._tails.setdefault(self._path(use), [])

    def jobs(self) -> Iterator[Job]:
        """All jobs, in the order in which they are carried out."""
        for path in self.paths:
            for _, record in sorted(self._files[path].items()):
                yield from record.jobs
            yield from self._tails.get(path, ())
        yield from self.in_program

    def free(self, uses: Iterable[BlobUse]) -> None:
        """Say that these are gone from the program, or will be. A record has to be free before its turn comes: in
        front of it, or earlier."""
        for use in uses:
            record = self._record(use)
            record.needed[self._stored(use, record.record)] -= 1

    def write(self, folder: Path, carry_out: Callable[[Job, Append | None], bool]) -> int | None:
        """Write the weight files into ``folder`` and point the program at them.

        ``carry_out``: called for each of :meth:`jobs` in their order, with a function that stores a record where the
        job's place is (None: in the program); False when there is nothing to store. Returns how many records nothing
        pointed at even before, which are dropped; None where that could not be found out.
        """
        dropped: int | None = 0
        for path in self.paths:
            target = folder / path.relative_to(self._model.package.path)
            make_folders(target.parent)
            with BlobWriter(target) as writer:
                self._fill(writer, path, carry_out)
            unused = _unused_records(self._files[path])
            dropped = None if dropped is None or unused is None else dropped + unused
        self._complete(carry_out)
        return dropped

    def measure(self, carry_out: Callable[[Job, Append | None], bool]) -> int:
        """Bytes of all that :meth:`write` would write with this ``carry_out``; the program points at it afterwards."""
        nbytes = 0
        for path in self.paths:
            sizes = BlobSizes()
            self._fill(sizes, path, carry_out)
            nbytes += sizes.nbytes
        self._complete(carry_out)
        return nbytes

    def _fill(self, writer: Blobs, path: Path, carry_out: Callable[[Job, Append | None], bool]) -> None:
        records = self._files[path]
        for _, record in sorted(records.items()):
            new = sum(carry_out(job, _appender(writer, record.file_name)) for job in record.jobs)
            self._copy(writer, record)
            if new and new + len(record.moved) > 1:
                self.apart += record.jobs
        for job in self._tails.get(path, ()):
            carry_out(job, _appender(writer, next(iter(records.values())).file_name))

    def _complete(self, carry_out: Callable[[Job, Append | None], bool]) -> None:
        for job in self.in_program:
            carry_out(job, None)
        self._point_at_new_places()

    def _copy(self, writer: Blobs, record: _Record[Job]) -> None:
        as_it_is = record.record.data_type, record.record.padding_bits
        for stored in sorted(stored for stored, count in record.needed.items() if count > 0):
            other = {} if stored == as_it_is else {"data_type": stored[0], "padding_bits": stored[1]}
            record.moved[stored] = writer.copy(record.reader, record.record, **other)

    def _point_at_new_places(self) -> None:
        """Only now: jobs that are still to be carried out read the old places."""
        for records in self._files.values():
            for record in records.values():
                for use in record.uses:
                    offset = record.moved.get(self._stored(use, record.record))
                    if offset is not None:
                        use.value.blobFileValue.offset = offset

    def _record(self, use: BlobUse) -> _Record[Job]:
        return self._files[self._path(use)][use.offset]

    def _path(self, use: BlobUse) -> Path:
        return self._model.store.reader(use.file_name, used_by=use.owner).path

    def _stored(self, use: BlobUse, record: BlobRecord) -> Stored:
        """How the record has to be stored for ``use``: as it is, unless a move gave the value another type."""
        as_it_is = record.data_type, record.padding_bits
        if not self._model.moved:
            return as_it_is
        shape = static_shape(use.value.type)
        declared = BLOB_TYPES.get(use.value.type.tensorType.dataType)
        if declared is None or shape is None or declared[0] == record.data_type:
            return as_it_is
        code, bits = declared
        return code, record.size * 8 - math.prod(shape) * bits


def _appender(writer: Blobs, file_name: str) -> Append:
    def append(data: np.ndarray, data_type: int, padding_bits: int) -> tuple[str, int]:
        return file_name, writer.append(data_type, data, padding_bits=padding_bits)

    return append


def _unused_records(records: dict[int, _Record[Job]]) -> int | None:
    """How many records of a weight file are not among ``records`` (by metadata offset), None where its header's count
    is not to be trusted."""
    reader = next(iter(records.values())).reader
    try:
        return sum(stored.metadata_offset not in records for stored in reader.all_records())
    except BlobError:
        return None
