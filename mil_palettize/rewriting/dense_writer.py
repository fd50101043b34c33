"""Chains of compressed constants written as dense ones.

A dense weight is written where the first record of its chain was.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from mil_palettize.encoding.workers import Workers
from mil_palettize.program.blob_uses import blob_uses
from mil_palettize.program.block_edits import remove_ops
from mil_palettize.program.chains import Chain, chain_key, chain_uses, constant_op, inner_ops
from mil_palettize.program.expression_reader import read_expression
from mil_palettize.program.model import Model
from mil_palettize.program.palette_ops import Append
from mil_palettize.program.sites import Site
from mil_palettize.program.values import BLOB_TYPES, MIL, MIL_TYPES, MIN_BLOB_ELEMENTS, blob_value, immediate_value
from mil_palettize.reports.progress import Progress
from mil_palettize.rewriting.other_files import write_other_files
from mil_palettize.rewriting.weight_files import WeightFiles


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


class DenseWriter:
    """Writes ``model``, which it changes, with a constant in the place of each of ``chains``."""

    def __init__(self, model: Model, chains: list[Chain], *, progress: Progress) -> None:
        self._model = model
        self._progress = progress
        self._done = Decompressed()
        self._inner = inner_ops(chains)
        self._values: list[tuple[Site, MIL.Value]] = []
        self._files: WeightFiles[_Job] = WeightFiles(model)
        self._add_jobs(chains)
        for op in [*(chain.site.op for chain in chains), *self._inner.values()]:
            self._files.free(blob_uses(op))

    def _add_jobs(self, chains: list[Chain]) -> None:
        jobs: dict[tuple[bytes, int], _Job] = {}
        keys: dict[int, bytes] = {}
        for chain in chains:
            place = self._files.place_of(chain_uses(chain.node), chain.site.weight.function)
            key = chain_key(chain.node, keys), id(place)
            if key not in jobs:
                jobs[key] = _Job()
                place.append(jobs[key])
            jobs[key].chains.append(chain)

    def write(self, folder: Path, workers: Workers) -> Decompressed:
        """Write every file of the new package into the empty ``folder``. Raises BlobError for parts that are
        damaged."""
        tasks = ((2 * job.dense_nbytes, partial(_decode, job, self._model)) for job in self._files.jobs())
        results = workers.ordered(tasks, here=True)
        self._done.dropped_records = self._files.write(
            folder, lambda job, append: self._store(job, next(results), append)
        )
        self._put_constants()
        write_other_files(self._model, folder, self._files.paths)
        return self._done

    def _store(self, job: _Job, result: tuple[np.ndarray, DenseFigures], append: Append | None) -> bool:
        array, figures = result
        if append is None or array.size < MIN_BLOB_ELEMENTS:
            value = immediate_value(array)
        else:
            data_type = MIL_TYPES[array.dtype]
            value = blob_value(*append(array, BLOB_TYPES[data_type][0], 0), array.shape, data_type)
        for chain in job.chains:
            self._values.append((chain.site, value))
            self._done.figures[chain.site] = figures
        self._progress.advance(job.site.weight.key, len(job.chains), job.dense_nbytes)
        return True

    def _put_constants(self) -> None:
        """Put the constants in, and take out what only the compressed ops read."""
        for site, value in self._values:
            site.op.CopyFrom(constant_op(site.op, value))
        for stage in self._model.stages:
            remove_ops(stage, self._inner)


def _decode(job: _Job, model: Model) -> tuple[np.ndarray, DenseFigures]:
    started = time.perf_counter()
    node = job.chains[0].node
    expr = read_expression(job.site.op, node.sources, model.store, used_by=job.site.weight.key)
    array = np.asarray(expr.decode(), order="C")  # which leaves rank 0 as it is
    return array, DenseFigures(expr.nbytes, time.perf_counter() - started)
