"""``mil-palettize``: palettize, decompress, inspect and compare packages from a terminal.

Nothing heavy is imported until a command runs: coremltools takes seconds.
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mil_palettize.cli import output
from mil_palettize.cli.arguments import build_parser, calibration_of, requests_of
from mil_palettize.cli.budget_arguments import budget_of, check_budget
from mil_palettize.cli.common_arguments import samples_given
from mil_palettize.cli.completion import completion_script
from mil_palettize.cli.loading import fail, load
from mil_palettize.cli.logs import logging_as
from mil_palettize.cli.looking import diff, expand, inspect, preflight
from mil_palettize.cli.plans import importance_of, plan, planned
from mil_palettize.cli.running import check_given, compare, run
from mil_palettize.cli.running_arguments import with_values
from mil_palettize.cli.sensitivities import sensitivity_json, sensitivity_text
from mil_palettize.cli.signals import Stopped, end, stopping
from mil_palettize.errors import (
    AlgorithmError,
    ConfigError,
    PackageError,
    PalettizeError,
    PlanError,
    VerifyError,
    memory_told,
)
from mil_palettize.package.given_files import check_python_file
from mil_palettize.package.links import following_links
from mil_palettize.text import format_count

if TYPE_CHECKING:
    from mil_palettize.reports.report import Report

EXIT_UNMET = 4
EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130
EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (ConfigError, 2),
    (PackageError, 3),
    (PlanError, EXIT_UNMET),
    (AlgorithmError, EXIT_UNMET),
    (VerifyError, 5),
    (PalettizeError, EXIT_UNMET),
    (OSError, 3),
)


def _palettize(options: argparse.Namespace) -> int:
    if options.destination is None and not options.dry_run:
        raise ConfigError("OUT.mlpackage is missing; only --dry-run goes without it")
    if options.check and options.quiet and options.report is None:
        raise ConfigError("--quiet shows nothing of --check; leave one out, or give --report FILE.json")
    read = {"--config": options.config, "--sensitivity": options.sensitivity}
    _check_report_path(options, {**read, "--calibrate": samples_given(options.calibrate)})
    budget = budget_of(options)
    check_budget(options, budget)
    api = load("doors.package")
    return _make(
        options,
        lambda: api.palettize_package(
            options.source,
            options.destination,
            requests_of(options) if budget is None else planned(options, budget),
            joint_compression=options.joint,
            importance=importance_of(options),
            redo=options.redo,
            select=options.select,
            dry_run=options.dry_run,
            **_written_how(options),
        ),
    )


def _written_how(options: argparse.Namespace) -> dict[str, Any]:
    """What ``palettize`` and ``finetune`` hand to ``palettize_package`` alike."""
    return {
        "target": options.target,
        "calibration": calibration_of(options),
        "strict": options.strict,
        "verify": options.verify,
        "check": options.check,
        "memory": options.memory if options.check else None,
        "overwrite": options.overwrite,
        "workers": options.workers,
        "resume": options.resume,
        "progress": output.progress(options),
    }


def _finetune(options: argparse.Namespace) -> int:
    read = {"--config": options.config, "--data": options.data, "--labels": options.labels}
    _check_report_path(options, {**read, "--calibrate": samples_given(options.calibrate)})
    check_given([options.source], options.data)
    if options.calibrate is None:
        options.calibrate = options.data
    api, finetuning = load("doors.package"), load("calibration.finetuning")
    labels = None if options.labels is None else load("doors.sensitivity").read_labels(options.labels)
    pictured = _pictured(options)
    mean, scale = (options.image_mean, options.image_scale) if options.data in pictured else (None, None)
    asked = finetuning.Finetuning(
        options.data,
        options.epochs,
        labels,
        options.batch,
        options.learning_rate,
        seed=options.seed,
        image_mean=mean,
        image_scale=scale,
        augment=() if options.augment is None else tuple(options.augment.split(",")),
        blocks=options.blocks,
        stop_here=options.stop_here,
    )
    if options.calibrate not in pictured:
        options.image_mean = options.image_scale = None
    try:
        return _make(
            options,
            lambda: api.palettize_package(
                options.source,
                options.destination,
                requests_of(options),
                finetuning=asked,
                **_written_how(options),
            ),
        )
    except KeyboardInterrupt as interrupt:
        if not interrupt.args and options.resume is not None:
            unit, kept = ("block", "those that are done") if options.blocks else ("epoch", "the best one so far")
            interrupt.args = (
                f"nothing was written; the same command goes on after the last {unit} in {options.resume}, and with "
                f"--stop-here writes {kept}",
            )
        raise


def _pictured(options: argparse.Namespace) -> set[str]:
    """Those of ``--data`` and ``--calibrate`` that ``--image-mean`` and ``--image-scale`` are of: what holds pictures,
    or, to be refused, both where neither does."""
    given = {what for what in (options.data, samples_given(options.calibrate)) if isinstance(what, str)}
    if options.image_mean is None and options.image_scale is None:
        return given
    holds_pictures = load("torch.image_folder").holds_pictures
    return {what for what in given if holds_pictures(what)} or given


def _sensitivity(options: argparse.Namespace) -> int:
    read = {"--calibrate": options.calibrate, "--labels": options.labels, "--loss": options.loss}
    output.check_report_path(options.out, [options.package], read, "--out")
    check_given([options.package], options.calibrate)
    if options.loss is not None:
        check_python_file(options.loss)
    door = load("doors.sensitivity")
    found = door.fisher_importance(
        options.package,
        options.calibrate,
        labels=None if options.labels is None else door.read_labels(options.labels),
        loss=None if options.loss is None else load("torch.python_files").defined(options.loss),
        damping=options.damping,
        function=options.function,
        seed=options.seed,
        image_mean=options.image_mean,
        image_scale=options.image_scale,
        progress=output.count(options),
    )
    door.write_importance(options.out, found, options.package)
    of = _sensitivity_source(options)
    told = sensitivity_json(found, of, options.out) if options.json else None
    output.show(told or sensitivity_text(found, of, options.out, output.width()))
    return 0


def _sensitivity_source(options: argparse.Namespace) -> str:
    """Of which samples, and of what: in words."""
    given, seed = options.calibrate, f"seed {options.seed}"
    samples = f"{format_count(given, 'made-up sample')} ({seed})" if isinstance(given, int) else f"samples of {given}"
    if options.loss is not None:
        return f"{samples}, the loss {options.loss}"
    right = f"labels of {options.labels}" if options.labels else f"labels drawn from the model's answers ({seed})"
    return f"{samples}, {right}"


def _decompress(options: argparse.Namespace) -> int:
    _check_report_path(options)
    decompression = load("doors.decompression")
    return _make(
        options,
        lambda: decompression.decompress_package(
            options.source,
            options.destination,
            verify=options.verify,
            overwrite=options.overwrite,
            workers=options.workers,
            progress=output.progress(options),
        ),
    )


def _check_report_path(options: argparse.Namespace, read: Mapping[str, object] | None = None) -> None:
    """Raise ConfigError, before anything runs, where --report or --html would replace what is read, or PackageError
    where it cannot be written."""
    if options.report == output.STANDARD_STREAM:
        if options.quiet:
            raise ConfigError("--report - writes to standard output, which --quiet leaves empty; leave one out")
        options.report, options.json = None, True
    packages = (options.source, options.destination)
    if options.report is not None:
        output.check_report_path(options.report, packages, read)
    if options.html is not None:
        output.check_report_path(options.html, packages, {**(read or {}), "--report": options.report}, "--html")


def _make(options: argparse.Namespace, make: Callable[[], Report]) -> int:
    """Make a package and publish the report; an interrupt after the package is complete says so."""
    before, started = output.identity(options.destination), time.perf_counter()
    try:
        report = make()
        report.seconds = time.perf_counter() - started  # a plan, and what it measured, included
        _publish(report, options)
    except KeyboardInterrupt as interrupt:
        if output.identity(options.destination) != before:
            interrupt.args = (f"{options.destination} is complete",)
        raise
    return 0


def _publish(report: Report, options: argparse.Namespace) -> None:
    """Write the report to where it is wanted."""
    try:
        if options.report is not None:
            output.write_report(options.report, report.to_json() + "\n")
        if options.html is not None:
            output.write_report(options.html, report.to_html(sort=options.sort))
        if options.json:
            output.show(report.to_json() + "\n")
        elif not options.quiet:
            output.show(report.to_text(output.width(), sort=options.sort, every=options.all))
    except PackageError as error:
        raise PackageError(f"{error}" if options.dry_run else f"{error}; {options.destination} is complete") from error


def _completion(options: argparse.Namespace) -> int:
    output.show(completion_script(build_parser(COMMANDS), options.shell))
    return 0


COMMANDS = {
    "palettize": _palettize,
    "plan": plan,
    "finetune": _finetune,
    "sensitivity": _sensitivity,
    "decompress": _decompress,
    "expand": expand,
    "preflight": preflight,
    "inspect": inspect,
    "diff": diff,
    "run": run,
    "compare": compare,
    "completion": _completion,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; errors are one line on standard error."""
    output.open_streams()
    # On Linux, importing coremltools prints a page about runtimes that are not there.
    logging.getLogger("coremltools").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")
    given, as_json = sys.argv[1:] if arguments is None else arguments, False
    try:
        with stopping():
            parser = build_parser(COMMANDS)
            if not given:
                parser.print_help(sys.stderr)
                return 2
            options = parser.parse_args(with_values(given))
            options.told = shlex.join(["mil-palettize", *given])
            as_json = getattr(options, "log_json", False)  # completion has none
            with following_links(options.follow_links), memory_told(), logging_as(options):
                return int(options.run(options))
    except Stopped as stopped:
        end(_interrupted(str(stopped), stopped.exit_code, as_json=as_json))
        raise
    except KeyboardInterrupt as interrupt:
        return _interrupted(str(interrupt), as_json=as_json)
    except Exception as error:
        if os.environ.get("MIL_PALETTIZE_TRACEBACK"):
            traceback.print_exc()
        return fail(*_explain(error), as_json=as_json)


def _explain(error: Exception) -> tuple[str, int]:
    """The line and the exit code of an error."""
    for kind, code in EXIT_CODES:
        if isinstance(error, kind):
            return str(error), code
    hint = "this is a bug; set MIL_PALETTIZE_TRACEBACK=1 to see where"
    return f"{type(error).__name__}: {error} ({hint})", EXIT_INTERNAL


def _interrupted(what: str, code: int = EXIT_INTERRUPTED, *, as_json: bool) -> int:
    return fail(f"interrupted; {what or 'nothing was written'}", code, as_json=as_json)


if __name__ == "__main__":
    sys.exit(main())
