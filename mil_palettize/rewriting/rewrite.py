"""The plan carried out: weight files streamed from source to destination, palettes put in the constants' place.

Records are written in the order of the source, whatever the number of workers, so that the result is the same.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mil_palettize.algorithms.making import ArraySource, Source
from mil_palettize.encoding.encoder import Task
from mil_palettize.encoding.palette_cache import Clustered
from mil_palettize.encoding.results import Declined, Encoded, Figures
from mil_palettize.encoding.workers import Workers
from mil_palettize.package.blob import BlobReader, BlobRecord, BlobWriter
from mil_palettize.package.disk import make_folders
from mil_palettize.planning.plan import Decision, Plan
from mil_palettize.program.blob_uses import BlobUse
from mil_palettize.program.chains import chain_key
from mil_palettize.program.contents import expression
from mil_palettize.program.edits import insert_ops, rebind
from mil_palettize.program.forms import FORMS, Form
from mil_palettize.program.model import Model
from mil_palettize.program.names import NameSource
from mil_palettize.program.palette_ops import PaletteValues, palette_ops, store_palette
from mil_palettize.program.serialized import Site
from mil_palettize.program.store import StoredWeight
from mil_palettize.program.values import BLOB_TYPES, MIL, static_shape
from mil_palettize.program.weight import Weight
from mil_palettize.reports.progress import Progress
from mil_palettize.rewriting.other_files import unused_records, write_other_files

Result = Encoded | Declined
Stored = tuple[int, int]  # blob data type code, padding bits


@dataclass(eq=False)
class _Job:
    """One palette to make, for every site with the same data, specification and importance. ``chain``: of a compressed
    constant, equal for the same ops over the same data."""

    decision: Decision
    form: Form
    shape: tuple[int, ...]
    chain: bytes
    sites: list[Site] = field(default_factory=list)

    @property
    def same(self) -> tuple[object, ...]:
        return self.decision.specification, self.decision.importance, self.form, self.shape, self.chain


@dataclass(eq=False)
class _Record:
    """A record of a source's weight file, what points at it and what is to be made of it."""

    reader: BlobReader
    record: BlobRecord
    file_name: str
    uses: list[BlobUse] = field(default_factory=list)
    jobs: list[_Job] = field(default_factory=list)


@dataclass
class Rewritten:
    """``results``: of planned weights. ``splits``: weights that shared a record and no longer do.
    ``dropped_records``: that no program pointed at, None where that could not be found out."""

    results: dict[Weight, Figures | Declined] = field(default_factory=dict)
    splits: set[Weight] = field(default_factory=set)
    dropped_records: int | None = 0


class Rewriter:
    """Writes ``model`` with the palettes of ``plan`` into the empty folder ``staging``.

    ``retype``: values were given other types by a move, and their records are stored so. ``rename``: what replaces a
    constant is called as coremltools calls it. ``clustered``: where palettes are kept.
    """

    def __init__(
        self,
        model: Model,
        plan: Plan,
        *,
        retype: bool,
        rename: bool = False,
        clustered: Clustered | None = None,
        progress: Progress,
    ) -> None:
        self.model = model
        self.clustered = clustered
        self.retype = retype
        self.rename = rename
        self.progress = progress
        self.done = Rewritten()
        self._replaced: list[tuple[Site, PaletteValues]] = []
        self._moved: dict[tuple[Path, int, Stored], int] = {}
        self._records = self._find_records()
        self._immediate: list[_Job] = []
        self._add_jobs(plan)

    def _find_records(self) -> dict[Path, dict[int, _Record]]:
        found: dict[Path, dict[int, _Record]] = {}
        for use in self.model.blob_uses():
            reader, record = self.model.store.locate(use.value, used_by=use.owner)
            of_file = found.setdefault(reader.path, {})
            of_file.setdefault(use.offset, _Record(reader, record, use.file_name)).uses.append(use)
        return found

    def _add_jobs(self, plan: Plan) -> None:
        planned = {d.weight: d for d in plan.decisions if d.specification is not None}
        for site in self.model.survey().sites:
            decision = planned.get(site.weight)
            if decision is None:
                continue
            form = FORMS[site.weight.opset]
            assert form is not None
            chain = chain_key(site.node) if site.weight.joint and site.node is not None else b""
            job = _Job(decision, form, site.weight.shape, chain, [site])
            if site.weight.storage is None:
                self._immediate.append(job)
                continue
            reader, _ = self.model.store.locate(site.value, used_by=site.weight.key)
            jobs = self._records[reader.path][site.weight.storage[1]].jobs
            same = next((other for other in jobs if other.same == job.same), None)
            if same is None:
                jobs.append(job)
            else:
                same.sites.append(site)

    def write(self, staging: Path, workers: Workers) -> Rewritten:
        """Write every file of the new package."""
        jobs = [job for _, record in self._in_order() for job in record.jobs] + self._immediate
        results = workers.ordered((_nbytes(job), self._task(job, workers)) for job in jobs)
        for path, records in sorted(self._records.items()):
            self._write_weight_file(staging, path, records, results)
        for job in self._immediate:
            self._take(job, next(results), None)
        self._patch_program()
        write_other_files(self.model, staging, self._records)
        return self.done

    def _in_order(self) -> Iterator[tuple[Path, _Record]]:
        for path, records in sorted(self._records.items()):
            for _, record in sorted(records.items()):
                yield path, record

    def _task(self, job: _Job, workers: Workers) -> Callable[[], Result]:
        if workers.executor is None:
            return partial(self._encode, job, workers.pmap)
        return self._encoding(job, sent=True)

    def _encode(self, job: _Job, pmap: Callable[..., Iterable[Any]]) -> Result:
        return self._encoding(job)(pmap)

    def _encoding(self, job: _Job, *, sent: bool = False) -> Task:
        """``sent``: to another process, which reads the weight itself."""
        site = job.sites[0]
        held = expression(site, self.model.store) if site.weight.joint else None
        stored = StoredWeight(self.model.store, site)
        source: Source = stored
        if sent:
            source = stored.reference() or ArraySource(stored.name, stored.read())
        specification = job.decision.specification
        assert specification is not None
        return Task(source, specification, job.form, held, self.clustered, job.decision.importance)

    def _write_weight_file(
        self, staging: Path, path: Path, records: dict[int, _Record], results: Iterator[Result]
    ) -> None:
        target = staging / self._relative(path)
        make_folders(target.parent)
        with BlobWriter(target) as writer:
            for _, record in sorted(records.items()):
                self._write_record(writer, path, record, results)
        unused = unused_records(records, next(iter(records.values())).reader)
        before = self.done.dropped_records
        self.done.dropped_records = None if before is None or unused is None else before + unused

    def _write_record(self, writer: BlobWriter, path: Path, record: _Record, results: Iterator[Result]) -> None:
        def append(data: np.ndarray, data_type: int, padding_bits: int) -> tuple[str, int]:
            return record.file_name, writer.append(data_type, data, padding_bits=padding_bits)

        kept: dict[Stored, int] = defaultdict(int)
        for use in record.uses:
            kept[self._stored(use, record.record)] += 1
        palettes = 0
        for job in record.jobs:
            if self._take(job, next(results), append):
                palettes += 1
                # Each site was one use, stored as plain floats.
                kept[record.record.data_type, record.record.padding_bits] -= len(job.sites)
        for stored in sorted(stored for stored, count in kept.items() if count > 0):
            offset = self._copy(writer, record, stored)
            self._moved[path, record.record.metadata_offset, stored] = offset
        if palettes + sum(count > 0 for count in kept.values()) > 1 and palettes:
            self.done.splits |= {site.weight for job in record.jobs for site in job.sites}

    def _take(self, job: _Job, result: Result, append: Callable[..., tuple[str, int]] | None) -> bool:
        """Store a result's palette; False when there is none."""
        outcome = result if isinstance(result, Declined) else result.figures  # not the palette: memory
        for site in job.sites:
            self.done.results[site.weight] = outcome
        self.progress.advance(job.sites[0].weight.key, len(job.sites), _nbytes(job))
        if isinstance(result, Declined):
            return False
        values = store_palette(result.expr, job.sites[0].weight.joint, job.form, append)
        self._replaced += [(site, values) for site in job.sites]
        return True

    def _copy(self, writer: BlobWriter, record: _Record, stored: Stored) -> int:
        if stored == (record.record.data_type, record.record.padding_bits):
            return writer.copy(record.reader, record.record)
        return writer.copy(record.reader, record.record, data_type=stored[0], padding_bits=stored[1])

    def _stored(self, use: BlobUse, record: BlobRecord) -> Stored:
        """How the record has to be stored for ``use``: as it is, unless a move gave the value another type."""
        if not self.retype:
            return record.data_type, record.padding_bits
        shape = static_shape(use.value.type)
        declared = BLOB_TYPES.get(use.value.type.tensorType.dataType)
        if declared is None or shape is None or declared[0] == record.data_type:
            return record.data_type, record.padding_bits
        code, bits = declared
        return code, record.size * 8 - math.prod(shape) * bits

    def _patch_program(self) -> None:
        """Point every remaining value at its record's new place, then put the palettes in."""
        for path, record in self._in_order():
            for use in record.uses:
                key = (path, record.record.metadata_offset, self._stored(use, record.record))
                if key in self._moved:
                    use.value.blobFileValue.offset = self._moved[key]
        self._put_palettes()

    def _put_palettes(self) -> None:
        names: dict[str, NameSource] = {}
        for stage in self.model.stages:
            names |= {stage.function_label(n): NameSource(f) for n, f in stage.program.functions.items()}
        new: dict[int, list[MIL.Operation]] = {}
        for site, values in sorted(self._replaced, key=lambda replaced: replaced[0].weight.position):
            assert site.node is not None
            *new[id(site.op)], last = palette_ops(site, values, names[site.weight.function], rename=self.rename)
            site.op.CopyFrom(last)
            rebind(site.node, site.op.outputs[0].name)
        for stage in self.model.stages:
            insert_ops(stage, new)

    def _relative(self, path: Path) -> Path:
        return path.relative_to(self.model.package.path)


def _nbytes(job: _Job) -> int:
    return job.sites[0].weight.nbytes
