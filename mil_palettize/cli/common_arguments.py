"""Types and groups of options that several commands have."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Iterable
from typing import NoReturn

from mil_palettize.algorithms.options import GRANULARITIES, LUT_DTYPES, SCALES
from mil_palettize.algorithms.registry import ALGORITHMS
from mil_palettize.expressions.legal_nbits import LEGAL_NBITS

WEIGHTS = "weights"  # of --calibrate: by these alone
_SEED_DIGITS = 18  # torch takes integers of 64 bits, which any of 18 digits fits into


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as every other error."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")

    def options(self) -> list[str]:
        """Every option it takes, as it is written."""
        return [name for action in self._actions for name in action.option_strings]


def near(name: str, names: Iterable[str]) -> str:
    from mil_palettize.request.near_names import near_names

    return near_names(name, names)


def path(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return text


def count(text: str) -> int:
    if not _is_whole(text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of samples; give 1 or more")
    return int(text)


def calibrated(text: str) -> str | int:
    """A path, "weights", or a number of samples."""
    if _is_whole(text):
        return count(text)
    if not os.path.exists(text) and text != WEIGHTS and (meant := near(text, [WEIGHTS])):
        raise argparse.ArgumentTypeError(f"there is no file or folder {text!r}{meant}")
    return path(text)


def nbytes(text: str) -> int:
    """Decimal units, as sizes are shown."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmgt]?)b?", text.strip().lower())
    nbytes = 0 if found is None else int(float(found[1]) * 1000 ** " kmgt".index(found[2] or " "))
    if nbytes < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; give one like 500MB or 2GB")
    return nbytes


def seed(text: str) -> int:
    if not _is_whole(text) or len(text) > _SEED_DIGITS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no seed; give a whole number, 0 or more, of up to {_SEED_DIGITS} digits"
        )
    return int(text)


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def decibels(text: str) -> float:
    number = text[:-2] if text.lower().endswith("db") else text
    try:
        found = float(number)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of decibels; give one like 30dB")
    return found


def add_palettes(sub: Parser) -> None:
    """What palettes are wanted, or a config."""
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


def add_shown(sub: Parser) -> None:
    show = sub.add_argument_group("what is shown")
    show.add_argument("--report", type=path, metavar="FILE.json", help="write the report there as JSON (-: as --json)")
    which = show.add_mutually_exclusive_group()
    which.add_argument("--json", action="store_true", help="the report as JSON on standard output")
    which.add_argument("--quiet", action="store_true", help="nothing but errors")
