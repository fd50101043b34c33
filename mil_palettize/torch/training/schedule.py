"""How palettes of a package are trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Tell = Callable[[int, int, str], object]


@dataclass(frozen=True)
class Schedule:
    """As in ``Finetuning``. ``held``: numbers of samples that are not learned from."""

    epochs: int
    batch: int
    learning_rate: float
    temperature: float
    seed: int
    held: frozenset[int]
    labels: Sequence[int] | None = None
    augment: tuple[str, ...] = ()
    stop_here: bool = False
