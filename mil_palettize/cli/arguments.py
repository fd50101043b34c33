"""The command line: its commands, options and what they mean as a config."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from mil_palettize import __version__
from mil_palettize.algorithms.options import GRANULARITIES
from mil_palettize.algorithms.registry import ALGORITHMS
from mil_palettize.cli.budget_arguments import add_budget
from mil_palettize.cli.common_arguments import WEIGHTS, add_calibrate, add_palettes, add_pixels, add_shown, calibrated
from mil_palettize.cli.completion import add_completion
from mil_palettize.cli.logs import add_logs
from mil_palettize.cli.looking import add_looking
from mil_palettize.cli.parsers import CommandLine, Parser
from mil_palettize.cli.running_arguments import add_compare, add_run
from mil_palettize.cli.values import count, epochs, path, seed
from mil_palettize.errors import ConfigError

if TYPE_CHECKING:
    from mil_palettize.calibration.request import Calibration
    from mil_palettize.request.normalised import Requests

Command = Callable[[argparse.Namespace], int]
_EPILOG = """exit codes: 0 done; 1 the packages differ (diff), more than --fail-below or another limit
allows, or in nothing that can be compared (compare); 2 wrong options, or wrong text in a config; 3 a package
or another file cannot be read, or nothing can be written; 4 the request cannot be met (also under --strict), or
memory is short; 5 verification failed; 70 a bug; 130, 143, 129 stopped by SIGINT, SIGTERM, SIGHUP"""
_UNLOGGED = "completion"
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
_CALIBRATION_OPTIONS = ("memory", "device", "bias", "image_mean", "image_scale")


def build_parser(commands: Mapping[str, Command]) -> CommandLine:
    """The whole command line; ``commands``: what carries each of them out, as ``run`` of the parsed options."""
    parser = CommandLine(prog="mil-palettize", description="Palettize Core ML packages.", epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subs = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    _add_palettize(subs)
    _add_plan(subs)
    _add_finetune(subs)
    _add_sensitivity(subs)
    _add_decompress(subs)
    add_looking(subs, _EPILOG)
    add_run(subs, _EPILOG)
    add_compare(subs, _EPILOG)
    add_completion(subs, _EPILOG)
    for name, sub in subs.choices.items():
        sub.set_defaults(run=commands[name])
        if name != _UNLOGGED:
            add_logs(sub)
        sub.add_argument("--follow-links", action="store_true", help="read what links in a package lead to, anywhere")
    return parser


def _add_palettize(commands: argparse._SubParsersAction[Parser]) -> None:
    sub = commands.add_parser("palettize", help="write a smaller package", epilog=_EPILOG)
    sub.add_argument("source", type=path, metavar="IN.mlpackage")
    sub.add_argument("destination", type=path, metavar="OUT.mlpackage", nargs="?", help="may be IN with --overwrite")
    add_palettes(sub)
    add_budget(sub, planning=False)
    how = sub.add_argument_group("how")
    how.add_argument("--target", metavar="iOS18", help="move the package up to this opset [as it is; iOS15 to iOS16]")
    how.add_argument("--joint", action="store_true", help="also what sparse and quantized weights hold (from iOS18)")
    add_calibrate(how)
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
    add_shown(sub)


def _add_finetune(commands: argparse._SubParsersAction[Parser]) -> None:
    sub = commands.add_parser("finetune", help="train palettes to give what the float package gives", epilog=_EPILOG)
    sub.add_argument("source", type=path, metavar="IN.mlpackage")
    sub.add_argument(
        "--out",
        dest="destination",
        type=path,
        required=True,
        metavar="OUT.mlpackage",
        help="may be IN with --overwrite",
    )
    sub.add_argument(
        "--data", type=path, required=True, metavar="X",
        help="samples to learn from, as --inputs of run; a fifth is held out, and decides what is kept",
    )  # fmt: skip
    add_palettes(sub)
    how = sub.add_argument_group("how")
    how.add_argument("--labels", type=path, metavar="Y.npy", help="right classes too [the float package's answers]")
    how.add_argument("--epochs", type=epochs, default=3, metavar="N", help="times to go through the samples [3]")
    how.add_argument("--batch", type=count, default=32, metavar="N", help="samples of a step [32]")
    how.add_argument("--learning-rate", type=float, metavar="X", help="of 1 bit; half with each more [0.03]")
    how.add_argument("--augment", metavar="KINDS", help="change pictures at random in each step: flip,shift,mix")
    how.add_argument(
        "--blocks", action="store_true",
        help="fit tables, scales and biases block by block instead, indices as they are: minutes, no labels",
    )  # fmt: skip
    how.add_argument("--seed", type=seed, default=0, metavar="N", help="of the order of the samples [0]")
    how.add_argument(
        "--calibrate", type=calibrated, metavar="WHAT",
        help="samples, N made up ones, or weights, for the palettes to begin with [those of --data]",
    )  # fmt: skip
    add_pixels(how)
    how.add_argument("--target", metavar="iOS18", help="move the package up to this opset [as it is; iOS15 to iOS16]")
    how.add_argument("--strict", action="store_true", help="what cannot be done as asked is an error")
    how.add_argument("--verify", action="store_true", help="decode what was written before it is put in place")
    how.add_argument("--check", action="store_true", help="run both packages, for the report")
    how.add_argument("--overwrite", action="store_true", help="replace an existing OUT")
    how.add_argument("--resume", type=path, metavar="DIR", help="keep palettes, epochs and blocks there; go on with it")
    how.add_argument(
        "--stop-here", action="store_true",
        help="train no further: write the best epoch, or the blocks, that --resume DIR has of the same command",
    )  # fmt: skip
    how.add_argument("--workers", type=int, metavar="N", help="threads of the calibration [all processors]")
    add_shown(sub)
    sub.set_defaults(dry_run=False, memory=None, device=None, bias=None)


def _add_plan(commands: argparse._SubParsersAction[Parser]) -> None:
    sub = commands.add_parser("plan", help="a recipe of mixed bits within a budget", epilog=_EPILOG)
    sub.add_argument("source", type=path, metavar="IN.mlpackage")
    add_budget(sub, planning=True)
    sub.add_argument("--group-size", type=int, metavar="N", help="one granularity for all, 0 for one table per weight")
    sub.add_argument("--weight-threshold", type=int, metavar="N", help="leave up to N elements alone [2048]")
    add_calibrate(sub)
    sub.add_argument("--sensitivity", type=path, metavar="S.npz", help="what elements count, as sensitivity wrote it")
    sub.add_argument("--target", metavar="iOS18", help="the opset that the package will be moved up to [as it is]")
    sub.add_argument("--out", type=path, metavar="RECIPE.yaml", help="write the recipe there, for palettize --config")
    sub.add_argument("--plot", type=path, metavar="CURVE.svg", help="draw size against error (.png: matplotlib)")
    sub.add_argument("--html", type=path, metavar="PAGE.html", help="write a page that shows it all")
    sub.add_argument("--workers", type=int, metavar="N", help="threads [all processors]; no effect on the result")
    sub.add_argument("--json", action="store_true", help="JSON on standard output")


def _add_sensitivity(commands: argparse._SubParsersAction[Parser]) -> None:
    sub = commands.add_parser("sensitivity", help="how much weights count for a model's answers", epilog=_EPILOG)
    sub.add_argument("package", type=path, metavar="IN.mlpackage")
    sub.add_argument("--out", type=path, metavar="S.npz", required=True, help="for palettize --sensitivity")
    sub.add_argument(
        "--calibrate",
        type=calibrated,
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
    add_pixels(sub)
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
    add_shown(sub)
    sub.set_defaults(config=None, dry_run=False)


def calibration_of(options: argparse.Namespace) -> Calibration | None:
    """What ``--calibrate`` asks for."""
    from mil_palettize.calibration.request import Calibration

    what = options.calibrate
    given = {name: value for name in _CALIBRATION_OPTIONS if (value := getattr(options, name)) is not None}
    if given and what in (None, WEIGHTS):
        flag = next(iter(given)).replace("_", "-")
        raise ConfigError(f"--{flag} goes with --calibrate and samples, which are run with it")
    if what is None:
        return None
    if isinstance(what, int):
        return Calibration(samples=what, **given)
    return Calibration(method="weights") if what == WEIGHTS else Calibration(what, **given)


def requests_of(options: argparse.Namespace) -> Requests:
    """What ``--config``, ``--recipe``, or the single options, ask for. Raises ConfigError."""
    from mil_palettize.request.entries import load_config
    from mil_palettize.request.normalised import Requests
    from mil_palettize.request.palette_request import palette_request
    from mil_palettize.request.recipes import recipe_path

    given = {name: getattr(options, name) for name in _PALETTE_OPTIONS if getattr(options, name) is not None}
    flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
    if options.config is not None:
        if given:
            raise ConfigError(f"--config and {flags} exclude each other; put them into {options.config}")
        return load_config(options.config)
    if options.recipe is not None:
        file = recipe_path(options.recipe)
        if given:
            raise ConfigError(f"--recipe and {flags} exclude each other; put them into a copy of {file}, for --config")
        return load_config(file)
    algorithm = ALGORITHMS.get(given.get("mode", ""))
    chooses = algorithm is not None and algorithm.chooses_nbits
    if "nbits" not in given and not chooses:
        choosing = [f"--mode {name}" for name, other in ALGORITHMS.items() if other.selectable and other.chooses_nbits]
        others = " or ".join((*choosing, "--config FILE.yaml", "--recipe NAME"))
        raise ConfigError(f"say how many bits with --nbits N, or give {others}")
    if "group_size" in given and given.get("granularity") == GRANULARITIES[0]:
        raise ConfigError("--group-size goes with --granularity per_grouped_channel")
    if chooses and "nbits" in given:
        raise ConfigError(f"--mode {given['mode']} takes as many bits as the values need; leave --nbits out")
    if (scale := given.pop("per_channel_scale", None)) is not None:
        given |= {"enable_per_channel_scale": True, "scale": scale}
    return Requests(palette_request(given), {}, {})
