"""What a plan is chosen from: the weights of a package, with bytes and errors of every palette."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from mil_palettize.budget.choices import Candidate
from mil_palettize.budget.distortion import Evaluated
from mil_palettize.budget.granularities import ONE_TABLE
from mil_palettize.budget.left_alone import Left
from mil_palettize.budget.relaxation import best_plans
from mil_palettize.program.model import Model
from mil_palettize.program.weight import WeightId
from mil_palettize.reports.curve import Point
from mil_palettize.request.importance import Importance
from mil_palettize.request.normalised import Requests
from mil_palettize.request.palette_request import DEFAULT_WEIGHT_THRESHOLD
from mil_palettize.rewriting.palettization import Prepared, prepare
from mil_palettize.rewriting.predicted_size import predicted_nbytes

_POINTS = 12  # of the curve


@dataclass(frozen=True, eq=False)
class SampleCosts:
    """What samples tell. ``costs``: how much a squared error of each element counts, float of the weight's shape, by
    constant; ``notes``: of the samples; ``weight_ranks``: of measures that need no run, the rank correlation over the
    weights with the noise at the outputs that a palette in one of them made, None where there are too few."""

    costs: Mapping[WeightId, np.ndarray]
    notes: tuple[str, ...]
    weight_ranks: Mapping[str, float | None]


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
    errors were found; ``importance``: how much elements count, by names of constants; ``weight_threshold``: constants
    of up to so many elements are not among them; ``weight_ranks``: as :class:`SampleCosts` has them."""

    source: Source
    choices: tuple[Evaluated, ...]
    nbytes: int
    base: int
    left: tuple[Left, ...]
    notes: tuple[str, ...] = ()
    importance: Mapping[str, Importance] = field(default_factory=dict)
    weight_threshold: int = DEFAULT_WEIGHT_THRESHOLD
    weight_ranks: Mapping[str, float | None] = field(default_factory=dict)

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


def _curve(from_all: Weighed) -> tuple[Point, ...]:
    nbytes = from_all.column(lambda c: c.nbytes)
    low, high = sum(map(min, nbytes)), 0.0
    sizes = (low + (high - low) * (number / _POINTS) ** 2 for number in range(_POINTS))
    points = [_point(from_all, picked) for picked in best_plans(nbytes, from_all.errors, sizes)]
    for granularity in ONE_TABLE:
        alike = granularity.picked(from_all.choices)
        if alike is not None:
            points.append(_point(from_all, alike, str(granularity)))
    return tuple(points)


def _point(from_all: Weighed, picked: Sequence[int], label: str = "") -> Point:
    pairs: list[tuple[Any, int]] = list(zip(from_all.choices, picked, strict=True))
    nbytes = from_all.base + sum(one.choice.candidates[i].nbytes for one, i in pairs)
    return Point(nbytes, sum(one.errors[i] for one, i in pairs), label)
