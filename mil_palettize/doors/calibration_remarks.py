"""What was asked for beside a calibration and has no effect, or another than asked for, because of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mil_palettize.algorithms.registry import ALGORITHMS, weighs
from mil_palettize.calibration.request import Calibration
from mil_palettize.calibration.solving import is_left_alone
from mil_palettize.errors import PlanError
from mil_palettize.planning.plan import Plan
from mil_palettize.text import format_count, format_some

_NAMED = 3


def calibration_remarks(plan: Plan, calibration: Calibration | None, *, strict: bool) -> list[str]:
    """For the report. Raises PlanError for the same under ``strict``."""
    if calibration is None:
        return []
    found = [*_modes(plan), *_importance(plan)]
    if found and strict:
        raise PlanError(
            f"strict: {format_count(len(found), 'request')} cannot be met as asked: {'; '.join(found)}; "
            "leave out one of the two"
        )
    return found


def _modes(plan: Plan) -> Iterator[str]:
    made = [(d.weight.key, d.specification) for d in plan.decisions if d.specification is not None]
    for mode in sorted({specification.mode for _, specification in made if is_left_alone(specification)}):
        keys = [key for key, specification in made if specification.mode == mode]
        why = "keeps all values" if ALGORITHMS[mode].lossless else "takes the entries it is given"
        yield f"calibration has no effect on {_told(keys)}: mode {mode!r} {why}"


def _importance(plan: Plan) -> Iterator[str]:
    keys = [
        d.weight.key
        for d in plan.decisions
        if d.importance is not None
        and d.specification is not None
        and weighs(d.specification)
        and not is_left_alone(d.specification)
    ]
    if keys:
        yield (
            f"importance does not decide on {_told(keys)}: calibration does, among palettes of which the one by "
            "importance is the first"
        )


def _told(keys: Sequence[str]) -> str:
    return f"{format_count(len(keys), 'weight')} ({format_some([*map(repr, keys)], _NAMED)})"
