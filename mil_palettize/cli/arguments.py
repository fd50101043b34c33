"""The command line: its commands, options and what they mean as a config."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from mil_palettize import __version__
from mil_palettize.algorithms.options import GRANULARITIES, LUT_DTYPES, SCALES
from mil_palettize.algorithms.registry import ALGORITHMS
from mil_palettize.cli.parsers import CommandLine, Parser, near
from mil_palettize.cli.running_arguments import add_compare, add_run
from mil_palettize.cli.values import count, is_whole, nbytes, path, seed
from mil_palettize.errors import ConfigError
from mil_palettize.expressions.legal_nbits import LEGAL_NBITS

if TYPE_CHECKING:
    from mil_palettize.calibration.request import Calibration
    from mil_palettize.request.normalised import Requests

Command = Callable[[argparse.Namespace], int]
_EPILOG = """exit codes: 0 done; 1 the packages differ (diff), more than --fail-below or another limit
allows, or in nothing that can be compared (compare); 2 wrong options, or wrong text in a config; 3 a package
or another file cannot be read, or nothing can be written; 4 the request cannot be met (also under --strict), or
memory is short; 5 verification failed; 70 a bug; 130, 143, 129 stopped by SIGINT, SIGTERM, SIGHUP"""
_PALETTE_OPTIONS = (
    "nbits",
    "mode",
    "granularity",
    "group_size",
    "channel_axis",
    "cluster_dim",
    "lut_dtype",
    "per_channel_scale",
    "weight_threshold",
)


_WEIGHTS = "weights"  # of --calibrate: by these alone


def build_parser(commands: Mapping[str, Command]) -> CommandLine:
    """The whole command line; ``commands``: what carries each of them out, as ``run`` of the parsed options."""
    parser = CommandLine(prog="mil-palettize", description="Palettize Core ML packages.", epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subs = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    _add_palettize(subs)
    _add_sensitivity(subs)
    _add_decompress(subs)
    inspect = subs.add_parser("inspect", help="list every constant of a package", epilog=_EPILOG)
    inspect.add_argument("package", type=path, metavar="IN.mlpackage")
    inspect.add_argument("--json", action="store_true", help="JSON on standard output")
    diff = subs.add_parser("diff", help="what differs between two packages", epilog=_EPILOG)
    diff.add_argument("first", type=path, metavar="A.mlpackage")
    diff.add_argument("second", type=path, metavar="B.mlpackage")
    diff.add_argument("--json", action="store_true", help="JSON on standard output")
    add_run(subs, _EPILOG)
    add_compare(subs, _EPILOG)
    for name, sub in subs.choices.items():
        sub.set_defaults(run=commands[name])
        sub.add_argument("--follow-links", action="store_true", help="read what links in a package lead to, anywhere")
    return parser


def _add_palettize(commands: argparse._SubParsersAction[Parser]) -> None:
    sub = commands.add_parser("palettize", help="write a smaller package", epilog=_EPILOG)
    sub.add_argument("source", type=path, metavar="IN.mlpackage")
    sub.add_argument("destination", type=path, metavar="OUT.mlpackage", nargs="?", help="may be IN with --overwrite")
    what = sub.add_argument_group("palettes (or --config)")
    what.add_argument("--nbits", type=int, choices=LEGAL_NBITS, help="bits per weight (3 from iOS18)")
    modes = tuple(name for name, algorithm in ALGORITHMS.items() if algorithm.selectable)
    what.add_argument("--mode", choices=modes, help="how look-up tables are made [kmeans]")
    what.add_argument("--granularity", choices=GRANULARITIES, help="one table, or one per group of channels")
    what.add_argument("--group-size", type=int, metavar="N", help="channels per group [32]; implies groups")
    what.add_argument("--channel-axis", type=int, metavar="AXIS", help="of groups or vectors [from the op]")
    what.add_argument("--cluster-dim", type=int, metavar="N", help="channels that share an index [1] (2 up from iOS18)")
    what.add_argument("--lut-dtype", choices=LUT_DTYPES, help="table entries of 8 bits (from iOS18)")
    what.add_argument(
        "--per-channel-scale", choices=SCALES, help="a scale per output channel, or a table for each (iOS18)"
    )
    what.add_argument("--weight-threshold", type=int, metavar="N", help="leave up to N elements alone [2048]")
    what.add_argument(
        "--config",
        type=path,
        metavar="FILE.yaml",
        help="a coremltools OptimizationConfig instead of the above (- reads standard input)",
    )
    how = sub.add_argument_group("how")
    how.add_argument("--target", metavar="iOS18", help="move the package up to this opset [as it is; iOS15 to iOS16]")
    how.add_argument("--joint", action="store_true", help="also what sparse and quantized weights hold (from iOS18)")
    how.add_argument(
        "--calibrate", type=_calibrated, metavar="WHAT",
        help="for what ops give: on samples (as --inputs of run), on N made up ones (torch), or by the 'weights' alone",
    )  # fmt: skip
    how.add_argument(
        "--memory", type=nbytes, metavar="SIZE",
        help="of values while samples are run, such as 2GB; the rest goes to disk [a quarter of what is free]",
    )  # fmt: skip
    how.add_argument("--device", choices=("cpu", "cuda", "mps"), help="what samples are run on with torch [cpu]")
    how.add_argument(
        "--bias", action="store_true", default=None, help="correct biases too, where held out samples gain"
    )
    how.add_argument("--sensitivity", type=path, metavar="S.npz", help="what elements count, as sensitivity wrote it")
    how.add_argument("--redo", action="store_true", help="palettize weights that are palettes already again")
    how.add_argument("--select", choices=("weights", "all"), default="weights", help="[weights], or all constants")
    how.add_argument("--strict", action="store_true", help="what cannot be done as asked is an error")
    how.add_argument("--verify", action="store_true", help="decode what was written before it is put in place")
    how.add_argument(
        "--check", action="store_true", help="run both on held out or made up samples, for the report (torch)"
    )
    how.add_argument("--overwrite", action="store_true", help="replace an existing OUT")
    how.add_argument("--dry-run", action="store_true", help="plan and report, write nothing")
    how.add_argument("--resume", type=path, metavar="DIR", help="keep palettes there; what is there is not made again")
    how.add_argument("--workers", type=int, metavar="N", help="threads [all processors]; no effect on the result")
    _add_shown(sub)


def _add_sensitivity(commands: argparse._SubParsersAction[Parser]) -> None:
    sub = commands.add_parser("sensitivity", help="how much weights count for a model's answers", epilog=_EPILOG)
    sub.add_argument("package", type=path, metavar="IN.mlpackage")
    sub.add_argument("--out", type=path, metavar="S.npz", required=True, help="for palettize --sensitivity")
    sub.add_argument(
        "--calibrate",
        type=_calibrated,
        default=64,
        metavar="WHAT",
        help="samples (as --inputs of run), or N made up ones [64]",
    )
    right = sub.add_mutually_exclusive_group()
    right.add_argument("--labels", type=path, metavar="Y.npy", help="right classes [drawn from the model's answers]")
    right.add_argument(
        "--loss", type=path, metavar="FILE.py:FUNC",
        help="a function of outputs (tensors by name) and the number of the sample, to a tensor of one element",
    )  # fmt: skip
    sub.add_argument("--damping", type=float, default=1.0, metavar="X", help="of the mean, added to all [1]")
    sub.add_argument("--function", metavar="NAME", help="of a model with several [the default one]")
    sub.add_argument("--seed", type=seed, default=0, metavar="N", help="of made up samples and drawn labels [0]")
    sub.add_argument("--json", action="store_true", help="JSON on standard output")


def _add_decompress(commands: argparse._SubParsersAction[Parser]) -> None:
    sub = commands.add_parser("decompress", help="make every compressed weight dense again", epilog=_EPILOG)
    sub.add_argument("source", type=path, metavar="IN.mlpackage")
    sub.add_argument("destination", type=path, metavar="OUT.mlpackage", help="may be IN with --overwrite")
    how = sub.add_argument_group("how")
    how.add_argument("--verify", action="store_true", help="read what was written before it is put in place")
    how.add_argument("--overwrite", action="store_true", help="replace an existing OUT")
    how.add_argument("--workers", type=int, metavar="N", help="threads [all processors]; no effect on the result")
    _add_shown(sub)
    sub.set_defaults(config=None, dry_run=False)


def _calibrated(text: str) -> str | int:
    """A path, "weights", or a number of samples."""
    if is_whole(text):
        return count(text)
    if not os.path.exists(text) and text != _WEIGHTS and (advice := near(text, [_WEIGHTS])):
        raise argparse.ArgumentTypeError(f"there is no file or folder {text!r}{advice}")
    return path(text)


def calibration_of(options: argparse.Namespace) -> Calibration | None:
    """What ``--calibrate`` asks for."""
    from mil_palettize.calibration.request import Calibration

    what = options.calibrate
    given = {name: value for name in ("memory", "device", "bias") if (value := getattr(options, name)) is not None}
    if given and what in (None, _WEIGHTS):
        raise ConfigError(f"--{next(iter(given))} goes with --calibrate and samples, which are run with it")
    if what is None:
        return None
    if isinstance(what, int):
        return Calibration(samples=what, **given)
    return Calibration(method="weights") if what == _WEIGHTS else Calibration(what, **given)


def _add_shown(sub: Parser) -> None:
    show = sub.add_argument_group("what is shown")
    show.add_argument("--report", type=path, metavar="FILE.json", help="write the report there as JSON (-: as --json)")
    which = show.add_mutually_exclusive_group()
    which.add_argument("--json", action="store_true", help="the report as JSON on standard output")
    which.add_argument("--quiet", action="store_true", help="nothing but errors")


def requests_of(options: argparse.Namespace) -> Requests:
    """What ``--config``, or the single options, ask for. Raises ConfigError."""
    from mil_palettize.request.entries import load_config
    from mil_palettize.request.normalised import Requests
    from mil_palettize.request.palette_request import palette_request

    given = {name: getattr(options, name) for name in _PALETTE_OPTIONS if getattr(options, name) is not None}
    if options.config is not None:
        if given:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ConfigError(f"--config and {flags} exclude each other; put them into {options.config}")
        return load_config(options.config)
    algorithm = ALGORITHMS.get(given.get("mode", ""))
    chooses = algorithm is not None and algorithm.chooses_nbits
    if "nbits" not in given and not chooses:
        choosing = [f"--mode {name}" for name, other in ALGORITHMS.items() if other.selectable and other.chooses_nbits]
        raise ConfigError(f"say how many bits with --nbits N, or give {' or '.join((*choosing, '--config FILE.yaml'))}")
    if "group_size" in given and given.get("granularity") == GRANULARITIES[0]:
        raise ConfigError("--group-size goes with --granularity per_grouped_channel")
    if chooses and "nbits" in given:
        raise ConfigError(f"--mode {given['mode']} takes as many bits as the values need; leave --nbits out")
    if (scale := given.pop("per_channel_scale", None)) is not None:
        given |= {"enable_per_channel_scale": True, "scale": scale}
    return Requests(palette_request(given), {}, {})
