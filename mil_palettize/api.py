"""The verbs: open, plan, encode, write, report."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from mil_palettize.config import OptimizationConfig
from mil_palettize.errors import ConfigError
from mil_palettize.package.replace import check_destination, recover, replacing
from mil_palettize.palettization import Prepared, carry_out, prepare
from mil_palettize.parallel import Workers
from mil_palettize.program.model import Model
from mil_palettize.progress import Progress, ProgressEvent, make_progress
from mil_palettize.report import Report
from mil_palettize.requests import normalise
from mil_palettize.summary import planned_report
from mil_palettize.verify import verify_package

PathLike = str | os.PathLike[str]


def palettize_package(
    source: PathLike,
    destination: PathLike | None,
    config: OptimizationConfig,
    *,
    target: object = None,
    joint_compression: bool = False,
    select: str = "weights",
    strict: bool = False,
    verify: bool = False,
    overwrite: bool = False,
    workers: int | None = None,
    progress: bool | Callable[[ProgressEvent], object] | None = None,
    dry_run: bool = False,
) -> Report:
    """Palettize the ML Programs of the package at ``source`` into ``destination``.

    ``config``: an ``OptimizationConfig``, coremltools' own or ours. ``target``: opset to move up to (``"iOS18"`` or a
    ``coremltools.target``). ``joint_compression``: also what sparse weights hold, and the integers of quantized ones
    (from iOS18). ``select``: "weights", or "all" constants above the threshold as coremltools does.
    ``strict``: anything asked for that cannot be done as asked is an error. ``verify``: decode what was written
    before it takes its place. ``workers``: threads, None for all processors; the result does not depend on it.
    ``progress``: True for a bar, or a function of :class:`ProgressEvent`. ``dry_run``: plan and report only.

    ``destination`` may be ``source`` with ``overwrite``. Raises ConfigError for a wrong request, PackageError
    (BlobError) for a package that cannot be read or written, PlanError for what the model or target does not
    allow, AlgorithmError for a wrong ``lut_function``, VerifyError; nothing is written then.
    """
    started = time.perf_counter()
    requests = normalise(config, joint_compression)
    if destination is None and not dry_run:
        raise ConfigError("destination is missing; only a dry run goes without one")
    with Workers(workers) as pool:
        recovered = recover(Path(destination)) if destination is not None and not dry_run else None
        with Model.open(source) as model:
            if destination is not None:
                check_destination(model.package.path, Path(destination), overwrite or dry_run)
            prepared = prepare(model, requests, target=target, select=select, strict=strict)
            goal = None if destination is None else os.fspath(destination)
            report = planned_report(
                os.fspath(source), goal, model.package.nbytes(), prepared.plan, prepared.moved, dry_run=dry_run
            )
            report.notes += [recovered] if recovered else []
            if destination is not None and not dry_run:
                _write(prepared, report, Path(destination), verify, overwrite, pool, make_progress(progress))
    report.seconds = time.perf_counter() - started
    return report


def _write(
    prepared: Prepared,
    report: Report,
    destination: Path,
    verify: bool,
    overwrite: bool,
    pool: Workers,
    progress: Progress,
) -> None:
    try:
        with replacing(destination, overwrite=overwrite, needed_bytes=report.bytes_after) as staging:
            carry_out(prepared, staging, report, pool=pool, progress=progress)
            if verify:
                verify_package(prepared.model.package.path, staging, report)
                report.verified = True
    finally:
        progress.close()
