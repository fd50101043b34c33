"""The door for packages on disk whose palettes are taken out again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from mil_palettize.encoding.workers import Workers
from mil_palettize.errors import memory_told
from mil_palettize.package.given_files import check_path
from mil_palettize.package.replacement import check_destination, recover, replacing
from mil_palettize.program.model import Model
from mil_palettize.reports.progress import ProgressEvent, make_progress
from mil_palettize.reports.report import Report
from mil_palettize.reports.weight_report import DECOMPRESSED
from mil_palettize.rewriting.decompression import decompress_model, decompressed_nbytes
from mil_palettize.rewriting.dense_verification import verify_decompressed
from mil_palettize.rewriting.other_files import check_readable

PathLike = str | os.PathLike[str]


@memory_told()
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
    stays as it is. A form that is not known is left and reported with the reason. Where an error is raised, nothing is
    written.

    Args:
        source: a ``.mlpackage`` folder.
        destination: where the new one goes; may be ``source`` with ``overwrite``.
        overwrite: replace what is at ``destination``.
        verify: read what was written before it takes its place.
        workers: threads, None for all processors; the result does not depend on it.
        progress: True for a bar, or a function of :class:`ProgressEvent`.

    Returns:
        What became of each compressed weight.

    Raises:
        ConfigError: for a wrong request.
        PackageError: for a package that cannot be read (BlobError: a damaged weight) or written.
        VerifyError: where what was written is not what was to be written.

    >>> report = decompress_package("fixtures/palettized_ios16.mlpackage", "dense.mlpackage", verify=True)
    >>> report.verified, all(weight.status == "decompressed" for weight in report.weights)
    (True, True)
    """
    started = time.perf_counter()
    check_path("destination", destination)
    with Workers(workers) as pool:
        recovered = recover(Path(destination))
        with Model.open(source) as model:
            check_destination(model.package.path, Path(destination), overwrite)
            report = Report(os.fspath(source), os.fspath(destination), model.package.nbytes(), 0, action=DECOMPRESSED)
            report.notes += ([recovered] if recovered else []) + model.remarks()
            bar = make_progress(progress)
            needed = report.bytes_before + decompressed_nbytes(model)
            try:
                with replacing(Path(destination), overwrite=overwrite, needed_bytes=needed) as staging:
                    decompress_model(model, staging, report, pool=pool, progress=bar)
                    if verify:
                        verify_decompressed(model.package.path, staging, report)
                        report.verified = True
                    else:
                        check_readable(staging, Path(destination))
            finally:
                bar.close()
    report.seconds = time.perf_counter() - started
    return report
