"""Budgets that no palettes can meet, and what holds them up."""

from __future__ import annotations

import math

from mil_palettize.budget.left_alone import by_reason
from mil_palettize.budget.limits import Budget
from mil_palettize.budget.weighed_choices import Weighed
from mil_palettize.errors import PlanError
from mil_palettize.text import format_bytes, format_count, format_some

_HELD_UP = 3  # that an error names


def refuse_unreachable(from_all: Weighed, budget: Budget) -> None:
    """Raise PlanError, with the smallest that there is and what holds it there, where that is above ``budget``."""
    if budget.measured:
        return
    if budget.bits_per_weight is not None:
        stored = sum(map(min, from_all.column(lambda c: c.stored_nbytes)))
        if stored > stored_nbytes(from_all, budget.bits_per_weight):
            least = math.ceil(8e4 * stored / max(1, from_all.elements)) / 1e4
            bits = f"{budget.bits_per_weight:g} bit{'' if budget.bits_per_weight == 1 else 's'} per weight"
            told = f"{bits} cannot be reached: the least is {least:g}"
            raise PlanError(f"{told}{_held_up(from_all)}")
        return
    assert budget.nbytes is not None
    smallest = from_all.smallest
    if smallest > budget.nbytes:
        told = f"{budget.nbytes:,} bytes cannot be reached: the smallest package is {smallest:,}"
        raise PlanError(f"{told}{_held_up(from_all)}")


def stored_nbytes(from_all: Weighed, bits_per_weight: float) -> float:
    """Bytes that may be stored; what is a rounding error more is the same."""
    return math.floor(bits_per_weight * from_all.elements / 8.0 + 1e-6)


def _held_up(from_all: Weighed) -> str:
    """What there is beside the smallest palettes."""
    stays = list(from_all.left)
    for one in from_all.choices:
        if len(one.choice.candidates) == 1:
            stays.append((one.choice.weight.key, one.choice.why_dense, one.choice.weight.nbytes))
    stays.sort(key=lambda item: -item[2])
    if not stays:
        return f": every weight at its fewest bits; {_besides(from_all)}"
    total = format_bytes(sum(nbytes for *_, nbytes in stays))
    told = [
        f"{format_some(list(map(repr, keys)), _HELD_UP)} ({size}: {reason})" for reason, keys, size in by_reason(stays)
    ]
    return f"; {total} in {format_count(len(stays), 'constant')} get no palette: {format_some(told, _HELD_UP)}"


def _besides(from_all: Weighed) -> str:
    """What of the smallest package is no palette."""
    stored = sum(map(min, from_all.column(lambda c: c.stored_nbytes)))
    rest = format_bytes(max(0, from_all.smallest - int(stored)))
    return f"{rest} are the program, and constants of up to {from_all.weight_threshold:,} elements (weight_threshold)"
