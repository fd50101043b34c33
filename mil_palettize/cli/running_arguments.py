"""The options of the commands that run models: run and compare."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any

from mil_palettize.cli.common_arguments import add_pixels
from mil_palettize.cli.parsers import Parser
from mil_palettize.cli.values import count, decibels, nats, nbytes, path, seed, share

_FAIL_BELOW = "--fail-below"


def with_values(arguments: Sequence[str]) -> list[str]:
    """``--fail-below -5dB`` as ``--fail-below=-5dB``: argparse takes for an option what begins with a dash."""
    found: list[str] = []
    for argument in arguments:
        if found and found[-1] == _FAIL_BELOW and re.match(r"-[\d.]", argument):
            found[-1] += f"={argument}"
        else:
            found.append(argument)
    return found


def add_run(commands: argparse._SubParsersAction[Parser], epilog: str) -> None:
    sub = commands.add_parser("run", help="run a model with torch, on any system", epilog=epilog)
    sub.add_argument("package", type=path, metavar="MODEL.mlpackage")
    _add_inputs(sub, 1)
    sub.add_argument("--out", type=path, metavar="Y.npz", help="write the outputs there")
    sub.add_argument("--json", action="store_true", help="JSON on standard output")


def add_compare(commands: argparse._SubParsersAction[Parser], epilog: str) -> None:
    sub = commands.add_parser("compare", help="what a palette did to a model's outputs", epilog=epilog)
    sub.add_argument("first", type=path, metavar="ORIGINAL.mlpackage")
    sub.add_argument(
        "second", type=path, metavar="PALETTIZED.mlpackage", help="or a .npz or .npy of outputs to come near"
    )
    which = _add_inputs(sub, 8, "NAME, or all, of a model with several [the default one; a gate: all]")
    which.add_argument("--sequence", type=path, metavar="X", help="samples that are calls of sequences")
    sub.add_argument("--steps", type=count, metavar="N", help="only the first N calls of each sequence [all]")
    sub.add_argument(
        "--greedy", type=count, default=0, metavar="N", help="where N tokens part that each model chooses itself"
    )
    sub.add_argument("--runtime", choices=("torch", "coreml"), default="torch", help="[torch], or coreml on a Mac")
    sub.add_argument("--per-op", action="store_true", help="also the results of every op, and what each weight does")
    sub.add_argument(
        _FAIL_BELOW,
        type=decibels,
        metavar="30dB",
        help="exit with 1 where an output's SNR is less, or tells nothing; also --fail-below=-5dB",
    )
    sub.add_argument(
        "--max-disagreement", type=share, metavar="1%", help="exit with 1 where more labels or classes differ"
    )
    sub.add_argument("--max-accuracy-loss", type=share, metavar="1%", help="exit with 1 where accuracy falls by more")
    sub.add_argument(
        "--max-map-loss", type=share, metavar="1%", help="exit with 1 where a detector's mAP falls by more"
    )
    sub.add_argument(
        "--max-perplexity-rise", type=share, metavar="2%", help="exit with 1 where perplexity rises by a larger part"
    )
    sub.add_argument(
        "--min-top-5", type=share, metavar="95%", help="exit with 1 where fewer of the first five classes are the same"
    )
    sub.add_argument("--min-iou", type=share, metavar="90%", help="exit with 1 where the mean IoU of a mask is less")
    sub.add_argument("--max-kl", type=nats, metavar="X", help="exit with 1 where the mean KL divergence is larger")
    sub.add_argument(
        "--logits", action="append", metavar="NAME", help="an output whose last axis is of classes [logits]"
    )
    sub.add_argument(
        "--labels",
        type=path,
        metavar="Y",
        help="right classes: .csv (label, or picture,label), .npy or .npz; boxes: .json as COCO has it",
    )
    sub.add_argument(
        "--allow-degenerate", action="store_true", help="let outputs pass that are constant or not finite in both"
    )
    sub.add_argument(
        "--html", type=path, metavar="FILE.html",
        help="write a page that shows it; compares ops as --per-op does, which takes longer, but with --memory",
    )  # fmt: skip
    sub.add_argument("--json", action="store_true", help="JSON on standard output")


def _add_inputs(sub: Parser, random: int, function: str = "of a model with several [the default one]") -> Any:
    """The group of what samples may be, of which one is given."""
    which = sub.add_mutually_exclusive_group()
    which.add_argument(
        "--inputs", type=path, metavar="X",
        help="samples: .npz of arrays by input, .npy for one input, .jsonl, .wav, images, or FILE.py:NAME",
    )  # fmt: skip
    which.add_argument("--random", type=count, default=random, metavar="N", help=f"make up N samples [{random}]")
    sub.add_argument("--seed", type=seed, default=0, metavar="N", help="of made up samples [0]")
    add_pixels(sub)
    sub.add_argument(
        "--memory", type=nbytes, metavar="SIZE", help="of decoded weights that are kept, such as 300MB [all]"
    )
    sub.add_argument("--function", metavar="NAME", help=function)
    sub.add_argument("--precision", choices=("fp32", "fp16"), default="fp32", help="fp16 rounds as devices do [fp32]")
    return which
