"""The verbs: open, plan, encode, write, report."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from mil_palettize.encoding.palette_cache import Clustered, clustered_in
from mil_palettize.encoding.workers import Workers
from mil_palettize.errors import ConfigError, EvaluationError, PackageError
from mil_palettize.package.replacement import SUFFIX, check_destination, recover, replacing
from mil_palettize.program.model import Model
from mil_palettize.program.opsets.move import parse_target
from mil_palettize.reports.model_comparison import ModelComparison
from mil_palettize.reports.progress import ProgressEvent, make_progress
from mil_palettize.reports.report import COUNT_UNKNOWN, Report
from mil_palettize.reports.summary import planned_report
from mil_palettize.request.normalised import Requests, normalise
from mil_palettize.rewriting.palettization import Prepared, carry_out, prepare
from mil_palettize.rewriting.redo import Key, correct_estimate, key, palettes, parts, tell, write_dense
from mil_palettize.rewriting.verification import verify_package

if TYPE_CHECKING:
    from coremltools.optimize.coreml import OptimizationConfig

PathLike = str | os.PathLike[str]


def palettize_package(
    source: PathLike,
    destination: PathLike | None,
    config: OptimizationConfig | Requests,
    *,
    target: object = None,
    joint_compression: bool = False,
    importance: Mapping[str, Any] | None = None,
    redo: bool = False,
    select: str = "weights",
    strict: bool = False,
    verify: bool = False,
    check: bool = False,
    overwrite: bool = False,
    workers: int | None = None,
    executor: Executor | None = None,
    resume: PathLike | None = None,
    progress: bool | Callable[[ProgressEvent], object] | None = None,
    dry_run: bool = False,
) -> Report:
    """Palettize the ML Programs of the package at ``source`` into ``destination``.

    ``config``: an ``OptimizationConfig``, coremltools' own or ours, or the ``Requests`` that a file was read to.
    ``target``: opset to move up to (``"iOS18"`` or a ``coremltools.target``). ``joint_compression``: also what sparse
    weights hold, and the integers of quantized ones (from iOS18). ``importance``: arrays of positive floats by name
    of a constant, or ``function/name``, of its shape or with sizes that divide that: the sum of importance times
    squared error is made small. ``redo``: weights that are palettes already get a new one, of the values the old one
    stands for; they are made dense in a temporary folder first. ``select``: "weights", or "all" constants above the
    threshold as coremltools does. ``strict``: anything asked for that cannot be done as asked, or has no effect, is
    an error. ``verify``: decode what was written before it takes its place. ``check``: run both packages on inputs
    made up from the description, and put what became of the outputs into the report (needs torch). ``progress``: True
    for a bar, or a function of :class:`ProgressEvent`. ``dry_run``: plan and report only.

    ``workers``: threads, None for all processors. ``executor``: any ``concurrent.futures.Executor`` instead, to which
    weights go by reference: its processes read the package's files themselves, this one writes. The result does not
    depend on either. ``resume``: a folder where palettes are kept by content and plan, so that a run after one that was
    interrupted, or one like it, takes them from there.

    ``destination`` may be ``source`` with ``overwrite``. Raises ConfigError for a wrong request, PackageError
    (BlobError) for a package that cannot be read or written, PlanError for what the model or target does not
    allow, AlgorithmError for a wrong ``lut_function``, VerifyError; nothing is written then.
    """
    started = time.perf_counter()
    if check:
        _check_can_run(source)
    requests = normalise(config, joint_compression, importance)
    if target is not None:
        target = parse_target(target)  # what is wrong with the request itself comes before what is wrong with places
    if destination is None and not dry_run:
        raise ConfigError("destination is missing; only a dry run goes without one")
    with Workers(workers, executor) as pool:
        recovered = recover(Path(destination)) if destination is not None and not dry_run else None
        run = _Run(
            source=source,
            destination=destination,
            requests=requests,
            target=target,
            select=select,
            strict=strict,
            verify=verify,
            check=check,
            overwrite=overwrite,
            dry_run=dry_run,
            progress=progress,
            pool=pool,
            clustered=None if resume is None else clustered_in(resume, (source, destination)),
        )
        report = _palettized_again(run) if redo else _palettized(run)
    report.notes += [recovered] if recovered else []
    report.seconds = time.perf_counter() - started
    return report


def compare(
    original: PathLike,
    palettized: PathLike,
    inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    *,
    random: int = 8,
    seed: int = 0,
    function: str | None = None,
    per_op: bool = False,
    precision: str = "fp32",
    runtime: str = "torch",
    histograms: int = 0,
) -> ModelComparison:
    """Run both packages on the same inputs, with torch, and compare outputs and weights.

    ``inputs``: what ``MLModel.predict`` takes, arrays (or images) by name, or a sequence of that; else ``random``
    samples are made up from the description of ``original``, from ``seed``. ``function``: of a model with several.
    ``per_op``: also the results of all ops that both have. ``precision``: "fp32", or "fp16" to round every result
    that is declared float16. ``runtime``: "torch", or "coreml" on a Mac. ``histograms``: of so many of the weights that
    lost most, for the page.

    Raises ConfigError for a wrong request and without torch, PackageError, UnsupportedOpError naming all ops that are
    not known, EvaluationError for inputs that the models do not take.
    """
    from mil_palettize.torch.comparison import compare_models

    return compare_models(
        original,
        palettized,
        inputs,
        random=random,
        seed=seed,
        function=function,
        per_op=per_op,
        precision=precision,
        runtime=runtime,
        histograms=histograms,
    )


def _check_can_run(source: PathLike) -> None:
    """A finished package is not to be refused for that. Raises what :func:`compare` does."""
    from mil_palettize.torch.evaluator.model_pipeline import open_model

    open_model(source)


def _check(source: PathLike, staging: Path, report: Report) -> None:
    """Put what became of the outputs into the report, or why that could not be told."""
    try:
        report.check = compare(source, staging)
    except EvaluationError as error:
        report.notes.append(f"not checked: {error}")
        return
    report.check.palettized = report.destination or ""


@dataclass(frozen=True)
class _Run:
    """One call: its options, and what it works with."""

    source: PathLike
    destination: PathLike | None
    requests: Requests
    target: object
    select: str
    strict: bool
    verify: bool
    check: bool
    overwrite: bool
    dry_run: bool
    progress: bool | Callable[[ProgressEvent], object] | None
    pool: Workers
    clustered: Clustered | None

    def prepare(self, model: Model, redo: Container[Key] = ()) -> Prepared:
        return prepare(model, self.requests, target=self.target, select=self.select, strict=self.strict, redo=redo)

    def check_destination(self, model: Model) -> None:
        if self.destination is not None:
            check_destination(model.package.path, Path(self.destination), self.overwrite or self.dry_run)

    def report(self, prepared: Prepared, nbytes: int) -> Report:
        goal = None if self.destination is None else os.fspath(self.destination)
        source = os.fspath(self.source)
        report = planned_report(source, goal, nbytes, prepared.plan, prepared.moved, dry_run=self.dry_run)
        report.notes += prepared.model.remarks() + self.refusal(prepared.model)
        return report

    def refusal(self, model: Model) -> list[str]:
        """Why a dry run would be refused if it was none."""
        if not self.dry_run or self.destination is None:
            return []
        try:
            check_destination(model.package.path, Path(self.destination), self.overwrite)
        except PackageError as error:
            return [f"without the dry run, this would be refused: {error}"]
        return []


def _palettized(run: _Run) -> Report:
    with Model.open(run.source) as model:
        run.check_destination(model)
        prepared = run.prepare(model)
        report = run.report(prepared, model.package.nbytes())
        _write(run, prepared, report)
    return report


def _palettized_again(run: _Run) -> Report:
    """As :func:`_palettized`, but weights that are palettes already get the new one too, unless their values rule it
    out: then they stay what they are."""
    kept: set[Key] = set()
    while True:
        with Model.open(run.source) as model:
            run.check_destination(model)
            nbytes = model.package.nbytes()
            old = {key: old for key, old in palettes(model).items() if key not in kept}
            prepared = run.prepare(model, old)
            old = {k: old[k] for k in (key(d.weight) for d in prepared.plan.decisions if d.specification) if k in old}
            if run.dry_run:
                report = run.report(prepared, nbytes)
                correct_estimate(report, old, parts(model, old))
                tell(report, old)
                return report
        if not old:
            return _palettized(run)
        with TemporaryDirectory(suffix=SUFFIX, prefix="mil-palettize-") as folder:
            dropped = write_dense(Path(run.source), Path(folder), old, run.pool, verify=run.verify)
            with Model.open(folder) as model:
                prepared = run.prepare(model)
                report = run.report(prepared, nbytes)
                try:
                    _write(run, prepared, report, needed=old)
                except _DeclinedError as declined:
                    kept |= declined.keys
                    continue
            tell(report, old)
            report.dropped_records = dropped
            report.notes += [COUNT_UNKNOWN] if dropped is None else []
            return report


class _DeclinedError(Exception):
    """Weights (``keys``) that were made dense for another palette got none."""

    def __init__(self, keys: set[Key]) -> None:
        super().__init__()
        self.keys = keys


def _write(run: _Run, prepared: Prepared, report: Report, *, needed: Container[Key] = ()) -> None:
    """Write the package, unless this is a dry run. Raises _DeclinedError when a weight of ``needed`` stays dense."""
    if run.dry_run or run.destination is None:
        return
    progress = make_progress(run.progress)
    try:
        with replacing(Path(run.destination), overwrite=run.overwrite, needed_bytes=report.bytes_after) as staging:
            carry_out(prepared, staging, report, pool=run.pool, progress=progress, clustered=run.clustered)
            declined = {key for w in report.skipped if (key := (w.function, w.name)) in needed}
            if declined:
                raise _DeclinedError(declined)
            if run.verify:
                verify_package(prepared.model.package.path, staging, report, _weights(prepared))
                report.verified = True
            if run.check:
                _check(run.source, staging, report)
    finally:
        progress.close()


def _weights(prepared: Prepared) -> dict[Key, np.ndarray]:
    """The importance that palettes were made with, by function and name of the constant."""
    return {key(d.weight): d.importance.array for d in prepared.plan.decisions if d.importance is not None}
