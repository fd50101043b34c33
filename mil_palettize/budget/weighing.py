"""Weights and their palettes, weighed: what each takes, and what it loses."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from mil_palettize.budget.choices import Candidate, Choice, choices_of
from mil_palettize.budget.distortion import Evaluated, evaluated
from mil_palettize.budget.limits import Budget, Limits, speaking
from mil_palettize.budget.reach import refuse_unreachable
from mil_palettize.budget.weighed_choices import SampleCosts, Source, Weighed
from mil_palettize.encoding.workers import Workers
from mil_palettize.errors import PlanError
from mil_palettize.program.model import Model
from mil_palettize.program.store import StoredWeight
from mil_palettize.program.weight import WeightId
from mil_palettize.request.importance import Importance
from mil_palettize.request.near_names import near_or_some_names
from mil_palettize.request.normalised import Requests
from mil_palettize.request.palette_request import palette_request
from mil_palettize.text import format_some

Tell = Callable[[int, int, str], object]
# Of the constants that are asked for.
Costs = Callable[[Model, Collection[WeightId]], SampleCosts]
_NO_SAMPLES = SampleCosts({}, (), {})
_HELD_UP = 3  # that an error names
_ALONE = "errors are told by the weights alone: of each op's output, relative to its power, all counted alike"
_WEIGHED = "within each weight elements count as the given importance says, relative to its mean"
_NO_VECTORS = "no weight can have pairs of channels that share an index here: they need --target iOS18"
_SAMPLED = (
    "errors are told by samples: noise at the model's outputs relative to their power, summed up over the weights"
)


def weighed(
    source: Source,
    limits: Limits,
    budget: Budget | None,
    pool: Workers,
    tell: Tell | None = None,
    costs: Costs | None = None,
    importance: Mapping[str, Importance] | None = None,
) -> Weighed:
    """What ``limits`` allow for each weight of ``source``, with bytes and errors. ``tell``: how many weights are done,
    of how many, and the name of the last. ``costs``: gives what samples tell of the constants that it is asked for.
    ``importance``: how much elements count, by names of constants.

    Raises PackageError; PlanError for entries of ``keep`` or ``importance`` that mean nothing, a target that cannot be
    had and, before a value is read, a ``budget`` (if there is one) that no palettes can reach.
    """
    weights = importance or {}
    request = palette_request({"nbits": 1, "weight_threshold": limits.weight_threshold})
    one_bit = Requests(request, {}, {}, importance=weights)
    with Model.open(source.path) as model:
        prepared = source.prepared(model, one_bit)
        choices, carried = _allowed(choices_of(prepared, limits.grid()), limits)
        left = tuple(
            (d.weight.key, d.reason, d.weight.nbytes) for d in prepared.plan.decisions if d.specification is None
        )
        unread = tuple(Evaluated(choice, (0.0,) * len(choice.candidates)) for choice in choices)
        size, base = model.package.nbytes(), source.nbytes(Requests(None, {}, {}))
        offered = Weighed(source, unread, size, base, left, (), weights, limits.weight_threshold)
        if budget is not None:
            refuse_unreachable(offered, budget)
        sampled = _NO_SAMPLES if costs is None else costs(model, {s.weight.id for one in choices for s in one.sites})
        told, note = _told(choices, sampled.costs)
        notes = [*sampled.notes, note, *carried]
        counted = {d.weight.id: d.importance for d in prepared.plan.decisions if d.importance is not None}
        notes += [_WEIGHED] if counted else []
        notes += [] if not limits.vectors or any(map(_has_vectors, choices)) else [_NO_VECTORS]
        tasks = ((one.weight.nbytes, partial(_evaluated, model, one, cost, counted)) for one, cost in told)
        found = []
        for number, result in enumerate(pool.ordered(tasks, here=True), 1):
            found.append(result)
            if tell is not None:
                tell(number, len(choices), result.choice.weight.key)
    return replace(offered, choices=tuple(found), notes=tuple(notes), weight_ranks=sampled.weight_ranks)


def _told(
    choices: Sequence[Choice], found: Mapping[WeightId, np.ndarray]
) -> tuple[list[tuple[Choice, np.ndarray | None]], str]:
    """Each choice with the costs of its elements, of all choices, or of none, as they have to be alike; and what errors
    are told by."""
    if not found:
        return [(one, None) for one in choices], _ALONE
    sums: list[np.ndarray | None] = []
    for one in choices:
        own = [found[s.weight.id] for s in one.sites if s.weight.id in found and s.weight.shape == one.weight.shape]
        sums.append(np.sum(np.stack(own), axis=0) if own else None)
    missing = [one.weight.key for one, cost in zip(choices, sums, strict=True) if cost is None]
    if missing:
        why = f"samples tell nothing of {format_some(missing, _HELD_UP)}: {_ALONE}"
        return [(one, None) for one in choices], why
    return list(zip(choices, sums, strict=True)), _SAMPLED


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


def _allowed(choices: Sequence[Choice], limits: Limits) -> tuple[list[Choice], list[str]]:
    """With the candidates that ``limits`` leave; and notes on weights that these hold for without naming them."""
    entries = limits.entries(site.weight for one in choices for site in one.sites)
    met: set[str] = set()
    found, notes = [], []
    for number, one in enumerate(choices):
        notes += _carried(one, entries)
        end = number in (0, len(choices) - 1)
        kept, own = limits.least(entries, [s.weight for s in one.sites], end)
        met |= own
        found.append(one.kept((c for c in one.candidates if _keeps(c, kept.nbits)), kept.why_dense))
    for name in limits.keep:
        if name not in met:
            names = {s.weight.name for one in choices for s in one.sites}
            others = near_or_some_names(name, names)
            raise PlanError(f"keep[{name!r}] matches no weight that could get a palette{others}")
    return found, notes


def _carried(choice: Choice, entries: Requests) -> list[str]:
    """Of weights that are chosen with one that an entry of ``keep`` means, though it does not mean them."""
    spoke = {site.weight.key: speaking(entries, site.weight) for site in choice.sites}
    notes = []
    for name in sorted(set().union(*spoke.values())):
        others = [key for key, names in spoke.items() if name not in names]
        if others:
            notes.append(
                f"keep[{name!r}] holds for {format_some(others, _HELD_UP)} too: what is stored once is chosen once; "
                "with op_name_configs in a config (--config) they are stored apart"
            )
    return notes


def _has_vectors(choice: Choice) -> bool:
    return any(c.specification is not None and c.specification.cluster_dim > 1 for c in choice.candidates)


def _keeps(candidate: Candidate, least: int | None) -> bool:
    if candidate.request is None:
        return True
    assert candidate.request.nbits is not None
    return least is not None and candidate.request.nbits / candidate.request.cluster_dim >= least
