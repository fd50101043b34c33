"""``mil-palettize``: palettize, decompress, inspect and compare packages from a terminal.

Nothing heavy is imported until a command runs: coremltools takes seconds.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

from mil_palettize import __version__, output
from mil_palettize.errors import (
    AlgorithmError,
    ConfigError,
    PackageError,
    PalettizeError,
    PlanError,
    VerifyError,
)
from mil_palettize.tables import printable

if TYPE_CHECKING:
    from mil_palettize.config import OptimizationConfig
    from mil_palettize.report import Report

EXIT_DIFFERENT = 1
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
_EPILOG = """exit codes: 0 done; 1 (diff) the packages differ; 2 wrong options or config; 3 a package or file cannot
be read or written; 4 the request cannot be met (also under --strict); 5 verification failed; 130 interrupted"""
_PALETTE_OPTIONS = ("nbits", "mode", "granularity", "group_size", "channel_axis", "cluster_dim", "weight_threshold")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as every other error."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = _Parser(prog="mil-palettize", description="Palettize Core ML packages.", epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    _add_palettize(commands)
    _add_decompress(commands)
    inspect = commands.add_parser("inspect", help="list every constant of a package", epilog=_EPILOG)
    inspect.add_argument("package", type=_path, metavar="IN.mlpackage")
    inspect.add_argument("--json", action="store_true", help="JSON on standard output")
    inspect.set_defaults(run=_inspect)
    diff = commands.add_parser("diff", help="what differs between two packages", epilog=_EPILOG)
    diff.add_argument("first", type=_path, metavar="A.mlpackage")
    diff.add_argument("second", type=_path, metavar="B.mlpackage")
    diff.add_argument("--json", action="store_true", help="JSON on standard output")
    diff.set_defaults(run=_diff)
    return parser


def _add_palettize(commands: argparse._SubParsersAction[_Parser]) -> None:
    sub = commands.add_parser("palettize", help="write a smaller package", epilog=_EPILOG)
    sub.add_argument("source", type=_path, metavar="IN.mlpackage")
    sub.add_argument("destination", type=_path, metavar="OUT.mlpackage", nargs="?", help="may be IN with --overwrite")
    what = sub.add_argument_group("palettes (or --config)")
    what.add_argument("--nbits", type=int, choices=(1, 2, 3, 4, 6, 8), help="bits per weight (3 from iOS18)")
    what.add_argument("--mode", choices=("kmeans", "uniform", "unique"), help="how look-up tables are made [kmeans]")
    what.add_argument(
        "--granularity", choices=("per_tensor", "per_grouped_channel"), help="one table, or one per group of channels"
    )
    what.add_argument("--group-size", type=int, metavar="N", help="channels per group [32]; implies groups")
    what.add_argument("--channel-axis", type=int, metavar="AXIS", help="of the groups [from the op]; implies groups")
    what.add_argument("--cluster-dim", type=int, metavar="N", help="channels that share an index [1] (2 up from iOS18)")
    what.add_argument("--weight-threshold", type=int, metavar="N", help="leave up to N elements alone [2048]")
    what.add_argument(
        "--config", type=_path, metavar="FILE.yaml", help="a coremltools OptimizationConfig instead of the above"
    )
    how = sub.add_argument_group("how")
    how.add_argument("--target", metavar="iOS18", help="move the package up to this opset [as it is; iOS15 to iOS16]")
    how.add_argument("--select", choices=("weights", "all"), default="weights", help="[weights], or all constants")
    how.add_argument("--strict", action="store_true", help="what cannot be done as asked is an error")
    how.add_argument("--verify", action="store_true", help="decode what was written before it is put in place")
    how.add_argument("--overwrite", action="store_true", help="replace an existing OUT")
    how.add_argument("--dry-run", action="store_true", help="plan and report, write nothing")
    how.add_argument("--workers", type=int, metavar="N", help="threads [all processors]; no effect on the result")
    _add_shown(sub)
    sub.set_defaults(run=_palettize)


def _add_decompress(commands: argparse._SubParsersAction[_Parser]) -> None:
    sub = commands.add_parser("decompress", help="make every compressed weight dense again", epilog=_EPILOG)
    sub.add_argument("source", type=_path, metavar="IN.mlpackage")
    sub.add_argument("destination", type=_path, metavar="OUT.mlpackage", help="may be IN with --overwrite")
    how = sub.add_argument_group("how")
    how.add_argument("--verify", action="store_true", help="read what was written before it is put in place")
    how.add_argument("--overwrite", action="store_true", help="replace an existing OUT")
    how.add_argument("--workers", type=int, metavar="N", help="threads [all processors]; no effect on the result")
    _add_shown(sub)
    sub.set_defaults(run=_decompress, config=None, dry_run=False)


def _add_shown(sub: _Parser) -> None:
    show = sub.add_argument_group("what is shown")
    show.add_argument("--report", type=_path, metavar="FILE.json", help="write the report there as JSON")
    show.add_argument("--json", action="store_true", help="the report as JSON on standard output")
    show.add_argument("--quiet", action="store_true", help="nothing but errors")


def _path(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return text


def _config(options: argparse.Namespace) -> OptimizationConfig:
    """The config of ``--config``, or of the single options."""
    from mil_palettize.config import OpPalettizerConfig, OptimizationConfig, load_config

    given = {name: getattr(options, name) for name in _PALETTE_OPTIONS if getattr(options, name) is not None}
    if options.config is not None:
        if given:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ConfigError(f"--config and {flags} exclude each other; put them into {options.config}")
        return load_config(options.config)
    if "nbits" not in given and given.get("mode") != "unique":
        raise ConfigError("say how many bits with --nbits N, or give --mode unique or --config FILE.yaml")
    grouped = {"group_size", "channel_axis"} & given.keys()
    if grouped and given.setdefault("granularity", "per_grouped_channel") == "per_tensor":
        raise ConfigError("--group-size and --channel-axis go with --granularity per_grouped_channel")
    if given.get("mode") == "unique" and "nbits" in given:
        raise ConfigError("--mode unique takes as many bits as the values need; leave --nbits out")
    try:
        return OptimizationConfig(global_config=OpPalettizerConfig(**given))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _palettize(options: argparse.Namespace) -> int:
    if options.destination is None and not options.dry_run:
        raise ConfigError("OUT.mlpackage is missing; only --dry-run goes without it")
    _check_report_path(options)
    api = _load("api")
    return _make(
        options,
        lambda: api.palettize_package(
            options.source,
            options.destination,
            _config(options),
            target=options.target,
            select=options.select,
            strict=options.strict,
            verify=options.verify,
            overwrite=options.overwrite,
            workers=options.workers,
            progress=None if options.quiet or options.json else True,
            dry_run=options.dry_run,
        ),
    )


def _decompress(options: argparse.Namespace) -> int:
    _check_report_path(options)
    decompression = _load("decompression")
    return _make(
        options,
        lambda: decompression.decompress_package(
            options.source,
            options.destination,
            verify=options.verify,
            overwrite=options.overwrite,
            workers=options.workers,
            progress=None if options.quiet or options.json else True,
        ),
    )


def _check_report_path(options: argparse.Namespace) -> None:
    if options.report is not None:
        output.check_report_path(options.report, options.config, (options.source, options.destination))


def _make(options: argparse.Namespace, make: Callable[[], Report]) -> int:
    """Make a package and publish the report; an interrupt after the package is complete says so."""
    before = output.identity(options.destination)
    try:
        _publish(make(), options)
    except KeyboardInterrupt as interrupt:
        if output.identity(options.destination) == before:
            raise
        raise KeyboardInterrupt(f"{options.destination} is complete") from interrupt
    return 0


def _publish(report: Report, options: argparse.Namespace) -> None:
    """Write the report to where it is wanted."""
    try:
        if options.report is not None:
            output.write_report(options.report, report.to_json() + "\n")
        if options.json:
            output.show(report.to_json() + "\n")
        elif not options.quiet:
            output.show(report.to_text(output.width()))
    except PackageError as error:
        raise PackageError(f"{error}" if options.dry_run else f"{error}; {options.destination} is complete") from error


def _inspect(options: argparse.Namespace) -> int:
    inspection = _load("inspection").inspect_package(options.package)
    output.show(inspection.to_json() + "\n" if options.json else inspection.to_text(output.width()))
    return 0


def _diff(options: argparse.Namespace) -> int:
    difference = _load("comparison").diff_packages(options.first, options.second)
    output.show(difference.to_json() + "\n" if options.json else difference.to_text(output.width()))
    return 0 if difference.identical else EXIT_DIFFERENT


def _load(name: str) -> ModuleType:
    """Import a module of this package. Meanwhile an interrupt ends the process at once: what coremltools imports
    swallows ``KeyboardInterrupt``, or is left half imported and waits for itself."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return import_module(f"mil_palettize.{name}")
    try:
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(_interrupted()))
    except ValueError:  # not the main thread, which gets all signals
        return import_module(f"mil_palettize.{name}")
    try:
        return import_module(f"mil_palettize.{name}")
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; errors are one line on standard error."""
    output.open_streams()
    # On Linux, importing coremltools prints a page about runtimes that are not there.
    logging.getLogger("coremltools").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")
    try:
        options = build_parser().parse_args(arguments)
        return int(options.run(options))
    except KeyboardInterrupt as interrupt:
        return _interrupted(str(interrupt))
    except Exception as error:
        if os.environ.get("MIL_PALETTIZE_TRACEBACK"):
            traceback.print_exc()
        return _fail(*_explain(error))


def _explain(error: Exception) -> tuple[str, int]:
    """The line and the exit code of an error."""
    if isinstance(error, MemoryError):
        return f"not enough memory ({error}); try fewer --workers", EXIT_UNMET
    for kind, code in EXIT_CODES:
        if isinstance(error, kind):
            return str(error), code
    hint = "this is a bug; set MIL_PALETTIZE_TRACEBACK=1 to see where"
    return f"{type(error).__name__}: {error} ({hint})", EXIT_INTERNAL


def _interrupted(what: str = "") -> int:
    return _fail(f"interrupted; {what or 'nothing was written'}", EXIT_INTERRUPTED)


def _fail(message: str, code: int) -> int:
    with suppress(OSError, ValueError, RuntimeError):  # nobody may be listening
        print(f"mil-palettize: error: {printable(' '.join(message.splitlines()))}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
