"""A package with every compressed weight made dense again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mil_palettize.encoding.workers import Workers
from mil_palettize.package.replacement import check_destination, recover, replacing
from mil_palettize.program.chains import Chain, find_chains
from mil_palettize.program.contents import describe_form
from mil_palettize.program.model import Model
from mil_palettize.reports.progress import Progress, ProgressEvent, make_progress
from mil_palettize.reports.report import COUNT_UNKNOWN, DECOMPRESSED, Report, WeightReport
from mil_palettize.rewriting.dense_rewrite import DenseRewriter, dense_nbytes
from mil_palettize.rewriting.dense_verification import verify_decompressed
from mil_palettize.rewriting.other_files import folder_nbytes

PathLike = str | os.PathLike[str]


def decompress_package(
    source: PathLike,
    destination: PathLike,
    *,
    overwrite: bool = False,
    verify: bool = False,
    workers: int | None = None,
    progress: bool | Callable[[ProgressEvent], object] | None = None,
) -> Report:
    """Write the package at ``source`` with a plain constant in the place of every compressed weight.

    Each ``constexpr`` op whose result other ops read becomes one ``const`` op with the same output name and the values
    coremltools decodes it to, bit for bit; ops it was made from go unless something else reads them; everything else
    stays as it is. A form that is not known is left and reported with the reason. ``verify``: read what was written
    before it takes its place. ``workers``: threads, None for all processors; the result does not depend on it.
    ``progress``: True for a bar, or a function of :class:`ProgressEvent`.

    ``destination`` may be ``source`` with ``overwrite``. Raises ConfigError, PackageError (BlobError for a damaged
    weight) and VerifyError; nothing is written then.
    """
    started = time.perf_counter()
    with Workers(workers) as pool:
        recovered = recover(Path(destination))
        with Model.open(source) as model:
            check_destination(model.package.path, Path(destination), overwrite)
            report = Report(os.fspath(source), os.fspath(destination), model.package.nbytes(), 0, action=DECOMPRESSED)
            report.notes += ([recovered] if recovered else []) + model.remarks()
            bar = make_progress(progress)
            needed = report.bytes_before + sum(dense_nbytes(c.site) for c in _open_chains(model))
            try:
                with replacing(Path(destination), overwrite=overwrite, needed_bytes=needed) as staging:
                    decompress_model(model, staging, report, pool=pool, progress=bar)
                    if verify:
                        verify_decompressed(model.package.path, staging, report)
                        report.verified = True
            finally:
                bar.close()
    report.seconds = time.perf_counter() - started
    return report


def _open_chains(model: Model) -> list[Chain]:
    return [chain for chain in find_chains(model.survey().sites) if not chain.obstacle]


def decompress_model(
    model: Model,
    folder: Path,
    report: Report,
    *,
    pool: Workers,
    progress: Progress,
    only: Callable[[Chain], bool] = lambda chain: True,
) -> None:
    """Write ``model`` into the empty ``folder`` with its compressed weights dense, and complete ``report``.

    ``only``: which ones. ``model`` is changed. Raises BlobError for a damaged weight.
    """
    chains = [chain for chain in find_chains(model.survey().sites) if only(chain)]
    opened = [chain for chain in chains if not chain.obstacle]
    report.weights = [_weight(chain) for chain in chains]  # before their ops are replaced
    progress.start(len(opened), sum(dense_nbytes(chain.site) for chain in opened))
    done = DenseRewriter(model, opened, progress=progress).write(folder, pool)
    report.weights = [
        weight
        if chain.obstacle
        else replace(weight, bytes_before=done.figures[chain.site].nbytes, seconds=done.figures[chain.site].seconds)
        for weight, chain in zip(report.weights, chains, strict=True)
    ]
    report.dropped_records = done.dropped_records
    if done.dropped_records is None:
        report.notes.append(COUNT_UNKNOWN)
    report.bytes_after = folder_nbytes(folder)


def _weight(chain: Chain) -> WeightReport:
    weight = chain.site.weight
    return WeightReport(
        name=weight.name,
        function=weight.function,
        shape=weight.shape,
        dtype=weight.dtype,
        consumers=[(c.op_type, c.input_name) for c in weight.consumers],
        status="skipped" if chain.obstacle else DECOMPRESSED,
        reason=chain.obstacle,
        mode=describe_form(chain.site),
        nbits=None,
        granularity=None,
        group_size=None,
        channel_axis=None,
        bytes_before=weight.nbytes,
        bytes_after=weight.nbytes if chain.obstacle else dense_nbytes(chain.site),
        snr_db=None,
        squared_error=None,
        seconds=0.0,
    )
