"""Groups of options that several commands have."""

from __future__ import annotations

import argparse
import os

from mil_palettize.algorithms.options import GRANULARITIES, LUT_DTYPES, SCALES
from mil_palettize.algorithms.registry import ALGORITHMS
from mil_palettize.cli.parsers import Parser, near
from mil_palettize.cli.values import count, is_whole, nbytes, numbers, path
from mil_palettize.expressions.legal_nbits import LEGAL_NBITS
from mil_palettize.reports.orders import ORDERS
from mil_palettize.request.recipes import recipe_names

WEIGHTS = "weights"  # of --calibrate: by these alone


def calibrated(text: str) -> str | int:
    """A path, "weights", or a number of samples."""
    if is_whole(text):
        return count(text)
    if not os.path.exists(text) and text != WEIGHTS and (advice := near(text, [WEIGHTS])):
        raise argparse.ArgumentTypeError(f"there is no file or folder {text!r}{advice}")
    return path(text)


def samples_given(calibrate: str | int | None) -> str | int | None:
    """What ``--calibrate`` reads or makes up, None where it goes by the weights alone."""
    return None if calibrate == WEIGHTS else calibrate


def add_calibrate(how: argparse._ArgumentGroup | Parser) -> None:
    """What palettes are made for, and with what."""
    how.add_argument(
        "--calibrate", type=calibrated, metavar="WHAT",
        help="for what ops give: on samples (as --inputs of run), on N made up ones (torch), or by the 'weights' alone",
    )  # fmt: skip
    how.add_argument(
        "--memory", type=nbytes, metavar="SIZE",
        help="of values while samples are run, such as 2GB, the rest goes to disk [a quarter of what is free]; with "
        "--check also of decoded weights that are kept [all]",
    )  # fmt: skip
    how.add_argument("--device", choices=("cpu", "cuda", "mps"), help="what samples are run on with torch [cpu]")
    add_pixels(how)


def add_pixels(how: argparse._ArgumentGroup | Parser) -> None:
    """What becomes of pictures."""
    how.add_argument("--image-mean", type=numbers, metavar="M", help="of pixels 0..255, where models take arrays [0]")
    how.add_argument("--image-scale", type=numbers, metavar="S", help="then (pixel - M) * S; one number, or R,G,B [1]")


def add_palettes(sub: Parser) -> None:
    """What palettes are wanted, or a config."""
    what = sub.add_argument_group("palettes (or --config, or --recipe)")
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
    instead = what.add_mutually_exclusive_group()
    instead.add_argument(
        "--config",
        type=path,
        metavar="FILE.yaml",
        help="a coremltools OptimizationConfig instead of the above (- reads standard input)",
    )
    instead.add_argument("--recipe", choices=recipe_names(), help="a config for this kind of model instead")


def add_shown(sub: Parser) -> None:
    show = sub.add_argument_group("what is shown")
    show.add_argument("--report", type=path, metavar="FILE.json", help="write the report there as JSON (-: as --json)")
    show.add_argument("--html", type=path, metavar="FILE.html", help="write the report there as a page")
    show.add_argument("--sort", choices=ORDERS, default="bytes", help="which weights come first [bytes]")
    show.add_argument("--all", action="store_true", help="every weight, not only the first ten")
    which = show.add_mutually_exclusive_group()
    which.add_argument("--json", action="store_true", help="the report as JSON on standard output")
    which.add_argument("--quiet", action="store_true", help="nothing but errors")
