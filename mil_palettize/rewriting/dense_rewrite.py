"""Chains of compressed constants written as dense ones: weight files streamed from source to destination.

A dense weight is written where the first record of its chain was, in the order of the source, whatever the number
of workers, so that the result is the same.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from mil_palettize.encoding.workers import Workers
from mil_palettize.package.blob import BlobReader, BlobRecord, BlobWriter
from mil_palettize.package.disk import make_folders
from mil_palettize.program.blob_uses import BlobUse, blob_uses
from mil_palettize.program.block_edits import remove_ops
from mil_palettize.program.chains import Chain, chain_key, constant_op, first_blob, inner_ops
from mil_palettize.program.expression_reader import read_expression
from mil_palettize.program.model import Model
from mil_palettize.program.sites import Site
from mil_palettize.program.values import BLOB_TYPES, MIL, MIL_TYPES, MIN_BLOB_ELEMENTS, blob_value, immediate_value
from mil_palettize.reports.progress import Progress
from mil_palettize.rewriting.other_files import unused_records, write_other_files


@dataclass(eq=False)
class _Job:
    """One weight to decompress, for every chain of the same ops over the same data."""

    chains: list[Chain] = field(default_factory=list)

    @property
    def site(self) -> Site:
        return self.chains[0].site

    @property
    def dense_nbytes(self) -> int:
        return dense_nbytes(self.site)


@dataclass(eq=False)
class _Record:
    """A record of a source's weight file, what points at it, and the dense weights that go in front of it."""

    reader: BlobReader
    record: BlobRecord
    uses: list[BlobUse] = field(default_factory=list)
    jobs: list[_Job] = field(default_factory=list)


@dataclass(frozen=True)
class DenseFigures:
    """What decompressing a weight came to. ``nbytes``: of all the parts it was stored as."""

    nbytes: int
    seconds: float


@dataclass
class Decompressed:
    """``figures``: of each chain's site. ``dropped_records``: that nothing pointed at even before, None where that
    could not be found out."""

    figures: dict[Site, DenseFigures] = field(default_factory=dict)
    dropped_records: int | None = 0


def dense_nbytes(site: Site) -> int:
    """Bytes of a constant's values."""
    return site.weight.size * BLOB_TYPES[site.op.outputs[0].type.tensorType.dataType][1] // 8


class DenseRewriter:
    """Writes ``model`` with a constant in the place of each of ``chains`` into the empty folder ``staging``."""

    def __init__(self, model: Model, chains: list[Chain], *, progress: Progress) -> None:
        self.model = model
        self.progress = progress
        self.done = Decompressed()
        self._inner = inner_ops(chains)
        self._values: list[tuple[Site, MIL.Value]] = []
        self._moved: list[tuple[BlobUse, int]] = []
        self._records = self._find_records()
        self._tails: dict[Path, list[_Job]] = {}  # chains without a record of their own, by their program's file
        self._immediate: list[_Job] = []
        self._add_jobs(chains)
        self._freed = self._count_freed(chains)

    def _find_records(self) -> dict[Path, dict[int, _Record]]:
        found: dict[Path, dict[int, _Record]] = {}
        for use in self.model.blob_uses():
            reader, record = self.model.store.locate(use.value, used_by=use.owner)
            found.setdefault(reader.path, {}).setdefault(use.offset, _Record(reader, record)).uses.append(use)
        return found

    def _add_jobs(self, chains: list[Chain]) -> None:
        files = self._program_files()
        jobs: dict[tuple[bytes, str], _Job] = {}
        for chain in chains:
            blob = first_blob(chain.node)
            file_name = files.get(chain.site.weight.function, "") if blob is None else blob.blobFileValue.fileName
            key = chain_key(chain.node), file_name
            if key not in jobs:
                jobs[key] = _Job()
                self._place(jobs[key], blob, file_name, chain.site.weight.key)
            jobs[key].chains.append(chain)

    def _place(self, job: _Job, blob: MIL.Value | None, file_name: str, used_by: str) -> None:
        if blob is not None:
            reader, record = self.model.store.locate(blob, used_by=used_by)
            self._records[reader.path][record.metadata_offset].jobs.append(job)
        elif file_name:
            path = self.model.store.reader(file_name, used_by=used_by).path
            self._tails.setdefault(path, []).append(job)
        else:
            self._immediate.append(job)

    def _program_files(self) -> dict[str, str]:
        """Function -> the weight file its program uses first, for those that use one."""
        files: dict[str, str] = {}
        for stage in self.model.stages:
            for first in blob_uses(stage.program)[:1]:
                files |= {stage.function_label(name): first.file_name for name in stage.program.functions}
        return files

    def _count_freed(self, chains: Iterable[Chain]) -> Counter[tuple[Path, int]]:
        """Uses of each record by ops that will be gone."""
        gone = [*(chain.site.op for chain in chains), *self._inner.values()]
        return Counter(
            (self.model.store.reader(use.file_name, used_by=use.owner).path, use.offset)
            for op in gone
            for use in blob_uses(op)
        )

    def write(self, staging: Path, workers: Workers) -> Decompressed:
        """Write every file of the new package. Raises BlobError for parts that are damaged."""
        results = workers.ordered(
            ((2 * job.dense_nbytes, partial(_decode, job, self.model)) for job in self._jobs_in_order()), here=True
        )
        for path, records in sorted(self._records.items()):
            self._write_weight_file(staging, path, records, results)
        for job in self._immediate:
            self._take(job, next(results), None, "")
        self._patch_program()
        write_other_files(self.model, staging, self._records)
        return self.done

    def _jobs_in_order(self) -> Iterator[_Job]:
        for path, records in sorted(self._records.items()):
            for _, record in sorted(records.items()):
                yield from record.jobs
            yield from self._tails.get(path, ())
        yield from self._immediate

    def _write_weight_file(
        self, staging: Path, path: Path, records: dict[int, _Record], results: Iterator[tuple[np.ndarray, DenseFigures]]
    ) -> None:
        target = staging / self._relative(path)
        make_folders(target.parent)
        moved: dict[int, int] = {}
        file_name = next(iter(records.values())).uses[0].file_name
        with BlobWriter(target) as writer:
            for offset, record in sorted(records.items()):
                for job in record.jobs:
                    self._take(job, next(results), writer, file_name)
                if len(record.uses) > self._freed[path, offset]:
                    moved[offset] = writer.copy(record.reader, record.record)
            for job in self._tails.get(path, ()):
                self._take(job, next(results), writer, file_name)
        # Chains still to be decoded read the old places: the program is changed when all are.
        self._moved += [(use, moved[offset]) for offset in moved for use in records[offset].uses]
        unused = unused_records(records, next(iter(records.values())).reader)
        before = self.done.dropped_records
        self.done.dropped_records = None if before is None or unused is None else before + unused

    def _take(
        self, job: _Job, result: tuple[np.ndarray, DenseFigures], writer: BlobWriter | None, file_name: str
    ) -> None:
        array, figures = result
        if writer is None or array.size < MIN_BLOB_ELEMENTS:
            value = immediate_value(array)
        else:
            data_type = MIL_TYPES[array.dtype]
            value = blob_value(file_name, writer.append(BLOB_TYPES[data_type][0], array), array.shape, data_type)
        for chain in job.chains:
            self._values.append((chain.site, value))
            self.done.figures[chain.site] = figures
        self.progress.advance(job.site.weight.key, len(job.chains), job.dense_nbytes)

    def _patch_program(self) -> None:
        """Point what is left at its records' new places, put the constants in, and take out what only the compressed
        ops read."""
        for use, offset in self._moved:
            use.value.blobFileValue.offset = offset
        for site, value in self._values:
            site.op.CopyFrom(constant_op(site.op, value))
        for stage in self.model.stages:
            remove_ops(stage, self._inner)

    def _relative(self, path: Path) -> Path:
        return path.relative_to(self.model.package.path)


def _decode(job: _Job, model: Model) -> tuple[np.ndarray, DenseFigures]:
    started = time.perf_counter()
    node = job.chains[0].node
    expr = read_expression(job.site.op, node.sources, model.store, used_by=job.site.weight.key)
    array = np.ascontiguousarray(expr.decode())
    return array, DenseFigures(expr.nbytes, time.perf_counter() - started)
