"""Options that say what all palettes together may take."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mil_palettize.cli.values import bits, decibels, kept, nbytes, path, share
from mil_palettize.errors import ConfigError
from mil_palettize.planning.device_rules import DEVICES

if TYPE_CHECKING:
    from mil_palettize.budget.limits import Budget, Limits

_BUDGETS = ("target_size", "bits_per_weight", "min_snr", "max_drop")
_LIMITS = ("keep", "ends", "device_rules", "vectors", "labels", "logits", "unmeasured")
_INSTEAD_OF_KEEP = (
    "; where all get the same bits, a --config FILE.yaml leaves a weight alone: op_name_configs: {NAME: null}"
)
_OF_BUDGETS = (
    "calibrate",
    "sensitivity",
    "group_size",
    "weight_threshold",
    "memory",
    "device",
    "image_mean",
    "image_scale",
)
_OTHERS = (
    "nbits",
    "mode",
    "granularity",
    "channel_axis",
    "cluster_dim",
    "lut_dtype",
    "per_channel_scale",
    "config",
    "recipe",
)


def add_budget(parser: argparse.ArgumentParser, *, planning: bool) -> None:
    """Add them to ``parser``. ``planning``: a plan is all that is made, of a budget or of what another tool chose."""
    group = parser.add_argument_group("a budget, within which each weight gets the palette that loses least")
    which = group.add_mutually_exclusive_group(required=planning)
    which.add_argument("--target-size", type=nbytes, metavar="SIZE", help="of the whole package, such as 2MB")
    which.add_argument("--bits-per-weight", type=bits, metavar="X", help="stored, tables included, such as 3.2")
    which.add_argument(
        "--min-snr", type=decibels, metavar="25dB",
        help="as few as keep this at the outputs, measured on held out or made up samples (torch)",
    )  # fmt: skip
    which.add_argument(
        "--max-drop", type=share, metavar="1%",
        help="as few as keep accuracy from falling by more, on held out samples; with --labels and --calibrate X",
    )  # fmt: skip
    if planning:
        which.add_argument(
            "--import", dest="imported", type=path, metavar="RECIPES.json",
            help="no budget, but what apple/ml-stable-diffusion's mixed-bit analysis or argmaxtools chose",
        )  # fmt: skip
        group.add_argument(
            "--checkpoint", type=path, metavar="MODEL.safetensors",
            help="of the torch model that --import is of; weights are matched by their values",
        )  # fmt: skip
        group.add_argument("--selected-recipe", metavar="NAME", help="which one of --import [the only one]")
    group.add_argument(
        "--labels", type=path, metavar="Y", help="right classes of the samples: .csv, .npy or .npz, as compare has them"
    )
    group.add_argument(
        "--logits", action="append", metavar="NAME", help="an output whose last axis is of classes [logits]"
    )
    group.add_argument(
        "--unmeasured", action="store_true", default=None,
        help="by what is predicted: do not run the plan beside uniform bits, which are given where they are better",
    )  # fmt: skip
    group.add_argument(
        "--keep", type=kept, action="append", metavar="NAME[=BITS]",
        help="leave it alone, or give it so many bits at least; as a config names it (*, re:PATTERN); may be repeated",
    )  # fmt: skip
    group.add_argument("--ends", type=int, metavar="BITS", help="that the first and the last weight get at least")
    group.add_argument(
        "--for",
        dest="device_rules",
        choices=tuple(DEVICES),
        help="what has to run it: forms that it is known to fail on are left out [any]",
    )
    group.add_argument(
        "--vectors", action="store_true", default=None, help="also pairs of channels that share an index"
    )


def budget_of(options: argparse.Namespace) -> Budget | None:
    """The one that is asked for. Raises ConfigError for options that go with one, or without."""
    from mil_palettize.budget.limits import Budget

    if all(getattr(options, name) is None for name in _BUDGETS):
        for name in _LIMITS:
            if getattr(options, name) is not None:
                flag = "for" if name == "device_rules" else name
                instead = _INSTEAD_OF_KEEP if name == "keep" else ""
                told = f"--{flag} goes with --target-size, --bits-per-weight, --min-snr or --max-drop"
                raise ConfigError(told + instead)
        return None
    for name in _OTHERS:
        if getattr(options, name, None) is not None:
            flag = name.replace("_", "-")
            raise ConfigError(f"a budget and --{flag} exclude each other: the plan says what each weight gets")
    return Budget(*(getattr(options, name) for name in _BUDGETS))


def check_import(options: argparse.Namespace) -> None:
    """Raise ConfigError where what goes with ``--import`` is missing, or what does not is there."""
    if options.imported is None:
        for name in ("checkpoint", "selected_recipe"):
            if getattr(options, name) is not None:
                raise ConfigError(f"--{name.replace('_', '-')} goes with --import")
        return
    if options.checkpoint is None:
        raise ConfigError(
            "--import names torch modules; give the checkpoint that the package was made of with --checkpoint, as "
            "weights are matched by their values"
        )
    for name in (*_LIMITS, *_OF_BUDGETS):
        if getattr(options, name) is not None:
            flag = "for" if name == "device_rules" else name.replace("_", "-")
            raise ConfigError(f"--import and --{flag} exclude each other: the recipe says what each weight gets")


def limits_of(options: argparse.Namespace) -> Limits:
    """What the plan has to keep to. Raises ConfigError."""
    from mil_palettize.budget.limits import Limits

    kept_names = [name for name, _ in options.keep or ()]
    for name in kept_names:
        if kept_names.count(name) > 1:
            raise ConfigError(f"--keep {name} is given twice; leave one out")
    given = {
        "keep": None if options.keep is None else dict(options.keep),
        "ends": options.ends,
        "group_size": options.group_size,
        "device": options.device_rules,
        "vectors": options.vectors,
        "weight_threshold": options.weight_threshold,
    }
    return Limits(**{name: value for name, value in given.items() if value is not None})


def check_budget(options: argparse.Namespace, budget: Budget | None) -> None:
    """What goes with a budget, if there is one: palettes are made for what ops give, as the plan supposes. Raises
    ConfigError."""
    if budget is None:
        return
    for name in ("joint", "redo"):
        if getattr(options, name):
            raise ConfigError(f"a budget and --{name} exclude each other: the plan is of weights that are dense")
    if options.select != "weights":
        raise ConfigError("a budget goes with --select weights: name others with --config")
    if options.calibrate is None:
        options.calibrate = "weights"
