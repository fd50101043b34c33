"""Bits under a budget: what each weight may get, what that loses and costs, and the best of it all."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from mil_palettize.budget.choices import Candidate, Choice, choices_of
from mil_palettize.budget.distortion import Evaluated, evaluated
from mil_palettize.budget.granularities import ONE_TABLE
from mil_palettize.budget.knapsack import cheapest
from mil_palettize.budget.limits import Budget, Limits
from mil_palettize.budget.recipe import Chosen, Recipe
from mil_palettize.encoding.workers import Workers
from mil_palettize.errors import PlanError
from mil_palettize.planning.device_rules import costs as device_costs
from mil_palettize.program.model import Model
from mil_palettize.program.store import StoredWeight
from mil_palettize.program.weight import WeightId
from mil_palettize.reports.curve import Point
from mil_palettize.request.importance import Importance
from mil_palettize.request.near_names import near_names
from mil_palettize.request.normalised import Requests
from mil_palettize.request.palette_request import palette_request
from mil_palettize.rewriting.palettization import Prepared, prepare
from mil_palettize.rewriting.predicted_size import predicted_nbytes
from mil_palettize.text import format_bytes, format_count, format_some

Tell = Callable[[int, int, str], object]
# Of the constants that are asked for, how much a squared error of each element counts; and what is to be told.
Costs = Callable[[Model, Collection[WeightId]], tuple[Mapping[WeightId, np.ndarray], list[str]]]
_ROUNDS = 8  # of corrections by the exact size
_POINTS = 12  # of the curve
_SECONDS_OF_POINT = 1.0
_NOTHING = Requests(None, {}, {})
_HELD_UP = 3  # that an error names
_ALONE = "errors are told by the weights alone: of each op's output, relative to its power, all counted alike"
_WEIGHED = "within each weight elements count as the given importance says, relative to its mean"
_SAMPLED = (
    "errors are told by samples: noise at the model's outputs relative to their power, summed up over the weights"
)


@dataclass(frozen=True)
class Source:
    """The package that is planned for, and where it is moved to first."""

    path: str | os.PathLike[str]
    target: object = None

    def prepared(self, model: Model, requests: Requests) -> Prepared:
        return prepare(model, requests, target=self.target, select="weights", strict=False)

    def nbytes(self, requests: Requests) -> int:
        """Of the package that would be written."""
        with Model.open(self.path) as model:
            return predicted_nbytes(self.prepared(model, requests))


@dataclass(frozen=True)
class Weighed:
    """Everything that is to be chosen from. ``nbytes``: of the package as it is; ``base``: with no palette, moved where
    there will be any; ``left``: constants that can have none, with the reason and their bytes; ``notes``: of how
    errors were found; ``importance``: how much elements count, by names of constants."""

    source: Source
    choices: tuple[Evaluated, ...]
    nbytes: int
    base: int
    left: tuple[tuple[str, str, int], ...]
    notes: tuple[str, ...] = ()
    importance: Mapping[str, Importance] = field(default_factory=dict)

    @property
    def elements(self) -> int:
        return sum(one.choice.weight.size for one in self.choices)

    def requests(self, picked: Sequence[int]) -> Requests:
        entries = {
            name: one.choice.candidates[i].request
            for one, i in zip(self.choices, picked, strict=True)
            for name in one.choice.names
        }
        return Requests(None, {}, entries, importance=self.importance)

    def written_nbytes(self, picked: Sequence[int]) -> int:
        """Exactly."""
        return self.source.nbytes(self.requests(picked))

    def column(self, value: Callable[[Candidate], float]) -> list[list[float]]:
        return [[value(candidate) for candidate in one.choice.candidates] for one in self.choices]

    @property
    def fewest_bytes(self) -> tuple[int, ...]:
        """The candidate of each that takes least."""
        return tuple(min(range(len(row)), key=row.__getitem__) for row in self.column(lambda c: c.nbytes))

    @cached_property
    def smallest(self) -> int:
        """Bytes of the smallest package."""
        return self.written_nbytes(self.fewest_bytes)

    @cached_property
    def curve(self) -> tuple[Point, ...]:
        """Plans of other sizes, and uniform palettes per tensor of those weights that can have them; sizes are sums,
        off by some bytes."""
        return _curve(self)

    @property
    def errors(self) -> list[list[float]]:
        return [list(one.errors) for one in self.choices]


def weighed(
    source: Source,
    limits: Limits,
    budget: Budget,
    pool: Workers,
    tell: Tell | None = None,
    costs: Costs | None = None,
    importance: Mapping[str, Importance] | None = None,
) -> Weighed:
    """What ``limits`` allow for each weight of ``source``, with bytes and errors. ``tell``: how many weights are done,
    of how many, and the name of the last. ``costs``: gives what samples tell of the constants that it is asked for.
    ``importance``: how much elements count, by names of constants.

    Raises PackageError; PlanError for entries of ``keep`` or ``importance`` that mean nothing, a target that cannot be
    had and, before a value is read, a ``budget`` that no palettes can reach.
    """
    weights = importance or {}
    request = palette_request({"nbits": 1, "weight_threshold": limits.weight_threshold})
    one_bit = Requests(request, {}, {}, importance=weights)
    with Model.open(source.path) as model:
        prepared = source.prepared(model, one_bit)
        choices = _allowed(choices_of(prepared, limits.grid()), limits)
        left = tuple(
            (d.weight.key, d.reason, d.weight.nbytes) for d in prepared.plan.decisions if d.specification is None
        )
        unread = tuple(Evaluated(choice, (0.0,) * len(choice.candidates)) for choice in choices)
        offered = Weighed(source, unread, model.package.nbytes(), source.nbytes(_NOTHING), left, (), weights)
        refuse_unreachable(offered, budget)
        told, notes = _told(model, choices, costs)
        counted = {d.weight.id: d.importance for d in prepared.plan.decisions if d.importance is not None}
        notes += [_WEIGHED] if counted else []
        tasks = ((one.weight.nbytes, partial(_evaluated, model, one, cost, counted)) for one, cost in told)
        found = []
        for number, result in enumerate(pool.ordered(tasks, here=True), 1):
            found.append(result)
            if tell is not None:
                tell(number, len(choices), result.choice.weight.key)
    return replace(offered, choices=tuple(found), notes=tuple(notes))


def _told(
    model: Model, choices: Sequence[Choice], costs: Costs | None
) -> tuple[list[tuple[Choice, np.ndarray | None]], list[str]]:
    """Each choice with the costs of its elements: of all choices, or of none, as they have to be alike."""
    if costs is None:
        return [(one, None) for one in choices], [_ALONE]
    found, notes = costs(model, {site.weight.id for one in choices for site in one.sites})
    sums: list[np.ndarray | None] = []
    for one in choices:
        own = [found[s.weight.id] for s in one.sites if s.weight.id in found and s.weight.shape == one.weight.shape]
        sums.append(np.sum(np.stack(own), axis=0) if own else None)
    missing = [one.weight.key for one, cost in zip(choices, sums, strict=True) if cost is None]
    if missing:
        why = f"no sample reaches {format_some(missing, _HELD_UP)}: {_ALONE}"
        return [(one, None) for one in choices], [*notes, why]
    return list(zip(choices, sums, strict=True)), [*notes, _SAMPLED]


def _evaluated(
    model: Model, choice: Choice, cost: np.ndarray | None, counted: Mapping[WeightId, Importance]
) -> Evaluated:
    given = [counted[site.weight.id] for site in choice.sites if site.weight.id in counted]
    return evaluated(
        choice,
        StoredWeight(model.store, choice.sites[0]).read(),
        cost,
        given[0].spread(choice.weight.shape) if given else None,
    )


def _allowed(choices: Sequence[Choice], limits: Limits) -> list[Choice]:
    entries = limits.entries(site.weight for one in choices for site in one.sites)
    met: set[str] = set()
    found = []
    for number, one in enumerate(choices):
        least, own = limits.least(entries, [s.weight for s in one.sites], number == 0, number == len(choices) - 1)
        met |= own
        found.append(replace(one, candidates=tuple(c for c in one.candidates if _keeps(c, least))))
    for name in limits.keep:
        if name not in met:
            names = {s.weight.name for one in choices for s in one.sites}
            raise PlanError(f"keep[{name!r}] matches no weight that could get a palette{near_names(name, names)}")
    return found


def _keeps(candidate: Candidate, least: int | None) -> bool:
    if candidate.request is None:
        return True
    assert candidate.request.nbits is not None
    return least is not None and candidate.request.nbits / candidate.request.cluster_dim >= least


def refuse_unreachable(from_all: Weighed, budget: Budget) -> None:
    """Raise PlanError, with the smallest that there is and what holds it there, where that is above ``budget``."""
    if budget.measured:
        return
    if budget.bits_per_weight is not None:
        stored = sum(map(min, from_all.column(lambda c: c.stored_nbytes)))
        if stored > _stored(from_all, budget.bits_per_weight):
            least = math.ceil(8e4 * stored / max(1, from_all.elements)) / 1e4
            told = f"{budget.bits_per_weight:g} bits per weight cannot be reached: the least is {least:g}"
            raise PlanError(f"{told}{_held_up(from_all)}")
        return
    assert budget.nbytes is not None
    smallest = from_all.smallest
    if smallest > budget.nbytes:
        told = f"{budget.nbytes:,} bytes cannot be reached: the smallest package is {smallest:,}"
        raise PlanError(f"{told}{_held_up(from_all)}")


def planned(from_all: Weighed, budget: Budget, device: str) -> Recipe:
    """The plan with the least sum of errors within ``budget``, which is bytes or bits. Raises PlanError where there is
    none."""
    refuse_unreachable(from_all, budget)
    if budget.bits_per_weight is not None:
        most = _stored(from_all, budget.bits_per_weight)
        solution = cheapest(from_all.column(lambda c: c.stored_nbytes), from_all.errors, most)
        if solution is None:  # it can be reached
            raise PlanError("no plan was found in the time that is given to it; ask for a little more, or --group-size")
        return recipe_of(from_all, solution.picked, from_all.written_nbytes(solution.picked), solution.gap, device)
    assert budget.nbytes is not None
    picked, exact, gap = _within(from_all, budget.nbytes)
    return recipe_of(from_all, picked, exact, gap, device)


def _stored(from_all: Weighed, bits_per_weight: float) -> float:
    """Bytes that may be stored; what is a rounding error more is the same."""
    return math.floor(bits_per_weight * from_all.elements / 8.0 + 1e-6)


def _within(from_all: Weighed, nbytes: int) -> tuple[Sequence[int], int, float]:
    """What is picked, the exact size and the gap. Sums of bytes taken one by one are corrected by the exact size until
    that is met."""
    most = float(nbytes - from_all.base)
    for _ in range(_ROUNDS):
        solution = cheapest(from_all.column(lambda c: c.nbytes), from_all.errors, most)
        if solution is None:
            break
        exact = from_all.written_nbytes(solution.picked)
        if exact <= nbytes:
            return solution.picked, exact, solution.gap
        most -= exact - nbytes
    return from_all.fewest_bytes, from_all.smallest, math.inf  # within some bytes of the smallest


def _held_up(from_all: Weighed) -> str:
    """What there is beside the smallest palettes."""
    stays = [(key, reason, nbytes) for key, reason, nbytes in from_all.left]
    for one in from_all.choices:
        if len(one.choice.candidates) == 1:
            stays.append((one.choice.weight.key, "kept, or its values rule palettes out", one.choice.weight.nbytes))
    stays.sort(key=lambda item: -item[2])
    if not stays:
        return ": every weight at its fewest bits"
    total = format_bytes(sum(nbytes for *_, nbytes in stays))
    told = [f"{key!r} ({format_bytes(nbytes)}: {reason})" for key, reason, nbytes in stays]
    return f"; {total} in {format_count(len(stays), 'constant')} get no palette: {format_some(told, _HELD_UP)}"


def recipe_of(
    from_all: Weighed, picked: Sequence[int], nbytes: int, gap: float | None, device: str, uniform: str = ""
) -> Recipe:
    """With the candidate of each weight that is ``picked``, in a package of ``nbytes``. ``gap``, ``uniform``: as the
    recipe has them."""
    chosen = tuple(_chosen(one, i) for one, i in zip(from_all.choices, picked, strict=True))
    target = from_all.source.target
    return Recipe(
        source=os.fspath(from_all.source.path),
        target=None if target is None else getattr(target, "target", str(target)),
        chosen=chosen,
        nbytes=nbytes,
        bytes_before=from_all.nbytes,
        smallest=from_all.smallest,
        gap=gap,
        curve=from_all.curve,
        notes=(*from_all.notes, *_notes(chosen, device)),
        uniform=uniform,
    )


def _chosen(one: Evaluated, picked: int) -> Chosen:
    choice, candidate = one.choice, one.choice.candidates[picked]
    before = choice.candidates[0].stored_nbytes
    weight = choice.weight
    return Chosen(
        choice.names, weight.shape, weight.dtype, candidate.options, before, candidate.stored_nbytes, one.errors[picked]
    )


def _notes(chosen: Iterable[Chosen], device: str) -> list[str]:
    """What the chosen palettes cost on a device."""
    found: dict[str, int] = {}
    for one in chosen:
        for rule in [] if one.options is None else device_costs(one.options, device):
            told = f"{rule.what} ({rule.source})"
            found[told] = found.get(told, 0) + 1
    return [f"{told}: {format_count(count, 'weight')}" for told, count in found.items()]


def _curve(from_all: Weighed) -> tuple[Point, ...]:
    nbytes, errors = from_all.column(lambda c: c.nbytes), from_all.errors
    low, high = sum(map(min, nbytes)), 0.0
    points = []
    for number in range(_POINTS):
        solution = cheapest(nbytes, errors, low + (high - low) * (number / _POINTS) ** 2, seconds=_SECONDS_OF_POINT)
        if solution is not None:
            points.append(_point(from_all, solution.picked))
    for granularity in ONE_TABLE:
        alike = granularity.picked(from_all.choices)
        if alike is not None:
            points.append(_point(from_all, alike, str(granularity)))
    return tuple(points)


def _point(from_all: Weighed, picked: Sequence[int], label: str = "") -> Point:
    pairs: list[tuple[Any, int]] = list(zip(from_all.choices, picked, strict=True))
    nbytes = from_all.base + sum(one.choice.candidates[i].nbytes for one, i in pairs)
    return Point(nbytes, sum(one.errors[i] for one, i in pairs), label)
