"""What a plan has to keep to: a size, a device, weights that are to keep more."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mil_palettize.errors import ConfigError
from mil_palettize.expressions.legal_nbits import LEGAL_NBITS
from mil_palettize.planning.device_rules import DEVICES, forbidden, sentence
from mil_palettize.program.weight import Weight
from mil_palettize.request.module_names import in_model, names_of
from mil_palettize.request.normalised import Requests
from mil_palettize.request.palette_request import DEFAULT_WEIGHT_THRESHOLD
from mil_palettize.request.patterns import check_pattern, is_pattern
from mil_palettize.text import format_count

GROUP_SIZES = (32, 16, 8, 4, 1)


@dataclass(frozen=True)
class Budget:
    """What all palettes together may take, one of: ``nbytes``, of the whole package as it lies on disk;
    ``bits_per_weight``, stored for an element of the weights that can be palettized, tables and scales included;
    ``min_snr_db``: as few as give this signal to noise, in decibels, at the outputs of the model as they are measured;
    ``max_drop``: as few as keep accuracy, a share of samples, from falling by more, as it is measured.

    Raises ConfigError unless it is one number above 0; ``max_drop`` may be 0, and is below 1.

    >>> Budget(bits_per_weight=3.2).measured, Budget(min_snr_db=25).measured
    (False, True)
    """

    nbytes: int | None = None
    bits_per_weight: float | None = None
    min_snr_db: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        every = (self.nbytes, self.bits_per_weight, self.min_snr_db, self.max_drop)
        given = [value for value in every if value is not None]
        if len(given) != 1:
            raise ConfigError(
                "a budget is nbytes, of the package, bits_per_weight, min_snr_db or max_drop; give one of them"
            )
        if self.max_drop is not None:
            if isinstance(given[0], bool) or not isinstance(given[0], int | float) or not 0 <= given[0] < 1:
                raise ConfigError(f"max_drop is {given[0]!r}; give a share from 0 to below 1, such as 0.01")
            return
        if isinstance(given[0], bool) or not isinstance(given[0], int | float) or not 0 < given[0] < float("inf"):
            raise ConfigError(f"a budget of {given[0]!r} is none; give a number above 0")

    @property
    def measured(self) -> bool:
        """Whether it is of quality, as plans have it when they are run."""
        return self.min_snr_db is not None or self.max_drop is not None


@dataclass(frozen=True)
class Kept:
    """``nbits``: the least of an element, None for "leave alone"; ``by``: what asked for that."""

    nbits: int | None
    by: str

    @property
    def why_dense(self) -> str:
        """Why there is no palette, where this rules all of them out."""
        if self.nbits is None:
            return f"{self.by} asks for it"
        return f"{self.by} asks for {format_count(self.nbits, 'bit')} or more, and it can have none of so many"


@dataclass(frozen=True)
class Limits:
    """``keep``: names of constants or of ops that read them, patterns or modules, as in a config -> the least number
    of bits, None for "leave alone". ``ends``: the same for the first and the last weight, 0 for no such limit.
    ``group_size``: one granularity for all, 0 for one table per weight, None for any. ``device``: one of
    :data:`DEVICES`. ``vectors``: also pairs of channels that share an index. ``weight_threshold``: weights of up to so
    many elements are left alone.

    Raises ConfigError for values that are none of these.

    >>> limits = Limits(keep={"head_weight": None}, device="ane")
    >>> recipe = plan_mixed_bits("fixtures/conv_fp16_ios18.mlpackage", 28000, limits=limits, measure=False)
    >>> recipe.config.op_name_configs["head_weight"] is None
    True
    """

    keep: Mapping[str, int | None] = field(default_factory=dict)
    ends: int | None = 0
    group_size: int | None = None
    device: str = "any"
    vectors: bool = False
    weight_threshold: int = DEFAULT_WEIGHT_THRESHOLD

    def __post_init__(self) -> None:
        if not isinstance(self.device, str) or self.device not in DEVICES:
            raise ConfigError(f"device is {self.device!r}, allowed are {tuple(DEVICES)}")
        if not isinstance(self.keep, Mapping):
            raise ConfigError(f"keep is {self.keep!r}; give a dict of names and bits, such as {{'re:.*embed.*': 6}}")
        for name, nbits in self.keep.items():
            if not isinstance(name, str):
                raise ConfigError(f"keep has {name!r}, which is no name")
            if is_pattern(name):
                check_pattern(name, "keep")
            if nbits is not None and not _is_whole(nbits, LEGAL_NBITS):
                raise ConfigError(f"keep[{name!r}] is {nbits!r}, allowed are {LEGAL_NBITS}, or None to leave it alone")
        if self.ends is not None and not _is_whole(self.ends, (0, *LEGAL_NBITS)):
            raise ConfigError(
                f"ends is {self.ends!r}, allowed are {LEGAL_NBITS}, 0 for no such limit, None to keep both"
            )
        if self.group_size is not None and not (_is_whole(self.group_size) and self.group_size >= 0):
            raise ConfigError(f"group_size is {self.group_size!r}; give channels, 0 for one table, or None for any")
        if not _is_whole(self.weight_threshold) or self.weight_threshold < 0:
            raise ConfigError(f"weight_threshold is {self.weight_threshold!r}; give a number of elements, 0 or more")
        if not isinstance(self.vectors, bool):
            raise ConfigError(f"vectors is {self.vectors!r}; give True or False")
        if self.vectors and self.group_size:
            raise ConfigError(
                f"vectors have one table for a weight, and group_size {self.group_size} asks for groups; leave one out"
            )

        if not self.grid():
            rule = forbidden({"nbits": max(LEGAL_NBITS), **_grouped(self.group_size or 0)}, self.device)
            assert rule is not None
            why = f"group_size is {self.group_size}, and device is {self.device!r}: {sentence(rule)}"
            raise ConfigError(f"{why}; leave one of them out")

    def grid(self) -> list[dict[str, Any]]:
        """Options of every palette that may be chosen, whatever the weight; there are some."""
        sizes = (0, *GROUP_SIZES) if self.group_size is None else (self.group_size,)
        kinds: list[dict[str, Any]] = [_grouped(size) for size in sizes]
        if self.vectors:
            kinds += [{"cluster_dim": 2}, {"cluster_dim": 2, "enable_per_channel_scale": True}]
        threshold = (
            {} if self.weight_threshold == DEFAULT_WEIGHT_THRESHOLD else {"weight_threshold": self.weight_threshold}
        )
        found = [{"nbits": nbits, **kind, **threshold} for kind in kinds for nbits in LEGAL_NBITS]
        return [options for options in found if forbidden(options, self.device) is None]

    def entries(self, weights: Iterable[Weight]) -> Requests:
        """``keep`` as it names ``weights``, all that get a palette. Raises PlanError for a pattern that matches
        nothing, and for a name that may mean several modules."""
        known = list(weights)
        readers = {(weight.function, name) for weight in known for name in _readers(weight)}
        return in_model(Requests(None, {}, dict.fromkeys(self.keep, None)), names_of(known, readers), "keep")

    def least(self, entries: Requests, weights: list[Weight], end: bool) -> tuple[Kept, set[str]]:
        """What an element of ``weights``, which get the same, is to keep; and the ``entries`` that spoke. ``end``:
        they are the first or the last in the program."""
        met = {entry for weight in weights for entry in speaking(entries, weight)}
        wanted = [Kept(self.keep[name], f"keep[{name!r}]") for name in sorted(met)]
        wanted += [Kept(self.ends, "ends")] if end else []
        return max(wanted, key=lambda kept: math.inf if kept.nbits is None else kept.nbits, default=Kept(0, "")), met


def _is_whole(value: object, allowed: Collection[int] | None = None) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole and (allowed is None or value in allowed)


def speaking(entries: Requests, weight: Weight) -> set[str]:
    """Those of :meth:`Limits.entries` that mean a weight."""
    return set(entries.matching(weight.function, weight.name, weight.op_name, *_readers(weight)))


def _readers(weight: Weight) -> list[str]:
    return [name for c in weight.consumers for name in (c.op_name, *c.outputs, *(name for _, name in c.path))]


def _grouped(size: int) -> dict[str, Any]:
    return {"granularity": "per_grouped_channel", "group_size": size} if size else {}
