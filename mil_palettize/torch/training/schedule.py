"""How palettes of a package are trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mil_palettize.errors import PlanError

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


def nothing_kept(what: str) -> PlanError:
    """Of a run that is to stop at once, and has no ``what`` to stop with."""
    return PlanError(
        f"no {what} of this fine tuning is kept; give the folder, package, samples and options of the run that was "
        "stopped"
    )
