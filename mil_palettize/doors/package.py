"""The door for packages on disk: palettes into one, and two compared by what they compute."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mil_palettize.budget.recipe import Recipe
from mil_palettize.calibration.finetuning import Finetuning
from mil_palettize.calibration.request import Calibration, checked_calibration
from mil_palettize.doors.finetuning import check_finetuning
from mil_palettize.doors.palettize_run import PalettizeRun
from mil_palettize.encoding.palette_cache import clustered_in
from mil_palettize.encoding.workers import Workers
from mil_palettize.errors import ConfigError, memory_told
from mil_palettize.package.given_files import (
    check_labels_exist,
    check_path,
    check_reference_exists,
    check_samples_exist,
    is_reference,
)
from mil_palettize.package.mlpackage import Package
from mil_palettize.package.replacement import recover
from mil_palettize.planning.plan import Select
from mil_palettize.program.opsets.move import parse_target
from mil_palettize.reports.counting import Count, counting
from mil_palettize.reports.model_comparison import ModelComparison
from mil_palettize.reports.progress import ProgressEvent
from mil_palettize.reports.repeated_call import call_text
from mil_palettize.reports.report import Report
from mil_palettize.request.memory_limit import check_memory
from mil_palettize.request.normalised import Requests, normalise

if TYPE_CHECKING:
    from coremltools.optimize.coreml import OptimizationConfig

PathLike = str | os.PathLike[str]
Samples = Mapping[str, Any] | Sequence[Mapping[str, Any]]
Numbers = float | Sequence[float]
Inputs = PathLike | Samples | Mapping[str, Samples] | None


@memory_told()
def palettize_package(
    source: PathLike,
    destination: PathLike | None,
    config: OptimizationConfig | Requests | Recipe,
    *,
    target: object = None,
    joint_compression: bool = False,
    importance: Mapping[str, Any] | None = None,
    calibration: Calibration | None = None,
    finetuning: Finetuning | None = None,
    redo: bool = False,
    select: Select = "weights",
    strict: bool = False,
    verify: bool = False,
    check: bool = False,
    memory: int | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    executor: Executor | None = None,
    resume: PathLike | None = None,
    progress: bool | Callable[[ProgressEvent], object] | None = None,
    dry_run: bool = False,
) -> Report:
    """Palettize the ML Programs of the package at ``source`` into ``destination``.

    Where an error is raised, nothing is written.

    Args:
        source: a ``.mlpackage`` folder.
        destination: where the new one goes; may be ``source`` with ``overwrite``, and None in a dry run.
        config: an ``OptimizationConfig``, coremltools' own or ours, the ``Requests`` that a file was read to, or the
            ``Recipe`` of a plan; then the report says whether the size is as planned.
        target: opset to move up to (``"iOS18"`` or a ``coremltools.target``).
        joint_compression: also what sparse weights hold, and the integers of quantized ones (from iOS18).
        importance: arrays of positive floats by name of a constant, or ``function/name``, of its shape or with sizes
            that divide that: the sum of importance times squared error is made small.
        calibration: palettes are made for what ops give on samples, or by the weights alone (see ``Calibration``).
        finetuning: these palettes, and biases, are then trained on the same samples.
        redo: weights that are palettes already get a new one, of the values the old one stands for.
        select: "weights", or "all" constants above the threshold as coremltools does.
        strict: anything asked for that cannot be done as asked, or has no effect, is an error.
        verify: decode what was written before it takes its place.
        check: run both packages on the samples that calibration held out, else on inputs made up from the description,
            and put what became of the outputs into the report (needs torch); where the package moves to a later opset,
            also that move without palettes, which may change nothing.
        memory: bytes of decoded weights that ``check`` keeps, as of :func:`compare`; of calibration ``Calibration`` has
            its own.
        overwrite: replace what is at ``destination``.
        workers: threads, None for all processors. The result does not depend on them.
        executor: any ``concurrent.futures.Executor`` instead, to which weights go by reference: its processes read the
            package's files themselves, this one writes. Calibration takes threads for the groups of a weight, and no
            executor.
        resume: a folder where palettes are kept by content and plan, so that a run after one that was interrupted, or
            one like it, takes them from there; of calibration those that it begins with.
        progress: True for a bar, or a function of :class:`ProgressEvent`.
        dry_run: plan and report only.

    Returns:
        What became of each weight: its palette with bytes and signal to noise, or why it was left alone.

    Raises:
        ConfigError: for a wrong request.
        PackageError: for a package that cannot be read (BlobError: a damaged weight file) or written.
        PlanError: for what the model or target does not allow.
        AlgorithmError: for a wrong ``lut_function``.
        VerifyError: where what was written does not decode to what the report says.
        EvaluationError: with samples, for those that the model does not take.
        UnsupportedOpError: with samples, for ops that the evaluator does not know.

    >>> config = OptimizationConfig(global_config=OpPalettizerConfig(nbits=4))
    >>> report = palettize_package("fixtures/conv_fp16_ios18.mlpackage", "small.mlpackage", config)
    >>> len(report.palettized), report.bytes_after < report.bytes_before
    (5, True)
    """
    started = time.perf_counter()
    recipe = config if isinstance(config, Recipe) else None
    asked = config.requests() if isinstance(config, Recipe) else config
    requests, calibration = normalise(asked, joint_compression, importance), checked_calibration(calibration)
    finetuning = check_finetuning(calibration, finetuning, resume)
    if target is not None:
        target = parse_target(target)  # what is wrong with the request itself comes before what is wrong with places
    check_memory(memory)
    if memory is not None and not check:
        raise ConfigError(
            f"memory is {memory}, and limits what check keeps; ask for check, or give Calibration(memory=…)"
        )
    if destination is None and not dry_run:
        raise ConfigError("destination is missing; only a dry run goes without one")
    if destination is not None:
        check_path("destination", destination)
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
            check=partial(compare, memory=memory) if check else None,
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
    planned = [] if recipe is None else recipe.told(None if dry_run else report.bytes_after)
    report.notes += [note for note in planned if note not in report.notes]  # plans read the samples that palettes do
    report.seconds = time.perf_counter() - started
    return report


@memory_told()
def compare(
    original: PathLike,
    palettized: PathLike,
    inputs: Inputs = None,
    *,
    random: int = 8,
    seed: int = 0,
    function: str | None = None,
    per_op: bool = False,
    precision: Literal["fp32", "fp16"] = "fp32",
    runtime: Literal["torch", "coreml"] = "torch",
    histograms: int = 0,
    logits: Sequence[str] = (),
    labels: Any = None,
    sequence: bool = False,
    steps: int | None = None,
    greedy: int = 0,
    image_mean: Numbers | None = None,
    image_scale: Numbers | None = None,
    memory: int | None = None,
    progress: bool | Count = False,
) -> ModelComparison:
    """Run both packages on the same inputs, with torch, and compare outputs and weights.

    Args:
        original: a ``.mlpackage`` folder.
        palettized: another one; or a ``.npz`` file of outputs by name, or a ``.npy`` file of the only one, which
            something else gave for ``inputs``: of one sample, or of several along an axis in front. That is the
            original then, and the package ``original`` is what is judged.
        inputs: what ``MLModel.predict`` takes, arrays (or images) by name, or a sequence of that, or a path as the
            command's ``--inputs``. A sample may be a sequence of calls, through which states live; figures are told of
            each call too.
        random: else, so many samples are made up from the description of ``original``.
        seed: of these.
        function: of a model with several, else the default one; "all" for every one, each on samples of its own: made
            up, or those that ``inputs`` has under its name, as a mapping or as a folder of ``NAME.npz``.
        per_op: also the results of all ops that both have, and how much of the outputs' error each weight makes.
        precision: "fp32", or "fp16" to round every result that is declared float16.
        runtime: "torch", or "coreml" on a Mac.
        histograms: of so many of the weights that lost most, for the page.
        logits: outputs whose last axis is of classes, else one of that name; of these and of a classifier's
            probabilities it is told how often the same class is the most probable, and more.
        labels: right classes of the samples: a sequence (of names or numbers; of logits also arrays of numbers, -100
            for none), or a path as the command's ``--labels``.
        sequence: all samples are the calls of one (of a ``.npz`` also of several, with an axis more).
        steps: only so many calls of each.
        greedy: tokens that each model chooses itself after each sample, and where they part (see ``--greedy``).
        image_mean: of a folder of images for a model that takes an array, which is (pixel - mean) · scale of pixels
            from 0 to 255; one number, or three.
        image_scale: as above.
        memory: bytes of decoded weights that are kept, of both models together, None for all; the others are decoded
            whenever an op reads them.
        progress: True for a bar where standard error is a terminal, or a function of what is done, how much of it, and
            of how much.

    Returns:
        Figures of outputs, weights and ops; ``failures`` says whether it is good enough.

    Raises:
        ConfigError: for a wrong request, and without torch.
        PackageError: for a package or file that cannot be read.
        UnsupportedOpError: for ops that are not known, all of them named.
        EvaluationError: for inputs that the models do not take.

    >>> same = "fixtures/conv_fp16_ios18.mlpackage"
    >>> compare(same, same, random=1).snr_db
    inf
    """
    call = call_text(compare, locals())
    # Before torch is imported, which takes seconds.
    Package.open(original)
    check_path("palettized", palettized)
    if is_reference(palettized):
        check_reference_exists(palettized)
    else:
        Package.open(palettized)
    if isinstance(inputs, str | os.PathLike):
        check_samples_exist(inputs)
    check_labels_exist(labels)
    from mil_palettize.torch.comparison import Options, compare_models
    from mil_palettize.torch.pixels import pixels_of

    with counting(progress) as count:
        options = Options(
            random=random,
            seed=seed,
            function=function,
            per_op=per_op,
            attributed=per_op,
            precision=precision,
            runtime=runtime,
            histograms=histograms,
            logits=logits,
            labels=labels,
            sequence=sequence,
            steps=steps,
            greedy=greedy,
            pixels=pixels_of(image_mean, image_scale),
            memory=memory,
            count=count,
        )
        return replace(compare_models(original, palettized, inputs, options), call=call)
