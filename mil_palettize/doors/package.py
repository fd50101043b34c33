"""The door for packages on disk: palettes into one, and two compared by what they compute."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mil_palettize.calibration.finetuning import Finetuning
from mil_palettize.calibration.request import Calibration, checked_calibration
from mil_palettize.doors.finetuning import check_finetuning
from mil_palettize.doors.palettize_run import PalettizeRun
from mil_palettize.encoding.palette_cache import clustered_in
from mil_palettize.encoding.workers import Workers
from mil_palettize.errors import ConfigError, memory_told
from mil_palettize.package.given_files import check_samples_exist
from mil_palettize.package.mlpackage import Package
from mil_palettize.package.replacement import recover
from mil_palettize.program.opsets.move import parse_target
from mil_palettize.reports.model_comparison import ModelComparison
from mil_palettize.reports.progress import ProgressEvent
from mil_palettize.reports.report import Report
from mil_palettize.request.normalised import Requests, normalise

if TYPE_CHECKING:
    from coremltools.optimize.coreml import OptimizationConfig

PathLike = str | os.PathLike[str]


@memory_told()
def palettize_package(
    source: PathLike,
    destination: PathLike | None,
    config: OptimizationConfig | Requests,
    *,
    target: object = None,
    joint_compression: bool = False,
    importance: Mapping[str, Any] | None = None,
    calibration: Calibration | None = None,
    finetuning: Finetuning | None = None,
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
    weights hold, and the integers of quantized ones (from iOS18). ``importance``: arrays of positive floats by name of
    a constant, or ``function/name``, of its shape or with sizes that divide that: the sum of importance times squared
    error is made small. ``calibration``: palettes are made for what ops give on samples, or by the weights alone (see
    ``Calibration``). ``finetuning``: these palettes, and biases, are then trained on the same samples. ``redo``:
    weights that are palettes already get a new one, of the values the old one stands for.
    ``select``: "weights", or "all" constants above the threshold as coremltools does. ``strict``: anything asked for
    that cannot be done as asked, or has no effect, is an error. ``verify``: decode what was written before it takes its
    place. ``check``: run both packages on the samples that calibration held out, else on inputs made up from the
    description, and put what became of the outputs into the report (needs torch); where the package moves to a later
    opset, also that move without palettes, which may change nothing. ``progress``: True for a bar, or a function of
    :class:`ProgressEvent`. ``dry_run``: plan and report only.

    ``workers``: threads, None for all processors. ``executor``: any ``concurrent.futures.Executor`` instead, to which
    weights go by reference: its processes read the package's files themselves, this one writes. The result does not
    depend on either. Calibration takes threads for the groups of a weight, and no executor. ``resume``: a folder where
    palettes are kept by content and plan, so that a run after one that was interrupted, or one like it, takes them from
    there; of calibration those that it begins with.

    ``destination`` may be ``source`` with ``overwrite``. Raises ConfigError for a wrong request, PackageError
    (BlobError) for a package that cannot be read or written, PlanError for what the model or target does not
    allow, AlgorithmError for a wrong ``lut_function``, VerifyError; with samples also EvaluationError and
    UnsupportedOpError; nothing is written then.
    """
    started = time.perf_counter()
    requests, calibration = normalise(config, joint_compression, importance), checked_calibration(calibration)
    check_finetuning(calibration, finetuning)
    if target is not None:
        target = parse_target(target)  # what is wrong with the request itself comes before what is wrong with places
    if destination is None and not dry_run:
        raise ConfigError("destination is missing; only a dry run goes without one")
    if calibration is not None and isinstance(calibration.sample_data, str | os.PathLike):
        check_samples_exist(calibration.sample_data)
    with Workers(workers, executor) as pool:
        recovered = recover(Path(destination)) if destination is not None and not dry_run else None
        run = PalettizeRun(
            source=source,
            destination=destination,
            requests=requests,
            target=target,
            redo=redo,
            select=select,
            strict=strict,
            verify=verify,
            check=compare if check else None,
            overwrite=overwrite,
            dry_run=dry_run,
            progress=progress,
            pool=pool,
            clustered=None if resume is None else clustered_in(resume, (source, destination)),
            calibration=calibration,
            finetuning=finetuning,
        )
        report = run.carry_out()
    report.notes += [recovered] if recovered else []
    report.seconds = time.perf_counter() - started
    return report


@memory_told()
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
    lost most, for the page. ``failures`` of what is returned says whether it is good enough.

    Raises ConfigError for a wrong request and without torch, PackageError, UnsupportedOpError naming all ops that are
    not known, EvaluationError for inputs that the models do not take.
    """
    for path in (original, palettized):  # before torch is imported, which takes seconds
        Package.open(path)
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
