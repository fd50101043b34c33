"""Where two models part that each go on with the tokens they choose themselves."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

from mil_palettize.text import format_count


@dataclass(frozen=True)
class GreedyFigures:
    """``tokens``: that each model chose after each prompt; ``parted``: of each prompt the first token, from 1 on, that
    is not the same, None where all are."""

    tokens: int
    parted: tuple[int | None, ...]

    @property
    def same(self) -> int:
        """Prompts after which all tokens are the same."""
        return sum(step is None for step in self.parted)

    def to_dict(self) -> dict[str, Any]:
        return {"tokens": self.tokens, "parted": list(self.parted), "same": self.same}

    def sentence(self) -> str:
        after = f"after {'each of ' if len(self.parted) > 1 else ''}{format_count(len(self.parted), 'prompt')}"
        apart = [step for step in self.parted if step is not None]
        told = f"Of {format_count(self.tokens, 'token')} that each model chooses itself {after}, "
        if not apart:
            return f"{told}all are the same."
        most = f", half of those that part by {median(apart):g}" if len(apart) > 1 else ""
        same = f"; {self.same} never part" if self.same else ""
        return f"{told}the first that differs is number {min(apart)}{most}{same}."
