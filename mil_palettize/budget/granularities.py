"""Uniform bits: the same number for all weights, each with tables of the same granularity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mil_palettize.budget.choices import Candidate
from mil_palettize.budget.distortion import Evaluated
from mil_palettize.budget.limits import GROUP_SIZES
from mil_palettize.expressions.legal_nbits import LEGAL_NBITS
from mil_palettize.text import format_count


@dataclass(frozen=True)
class Granularity:
    """``group_size``: channels that share a table, 0 for one table per weight."""

    nbits: int
    group_size: int = 0

    def __str__(self) -> str:
        told = format_count(self.nbits, "bit")
        if self.group_size == 1:
            return f"{told}, a table per channel"
        return f"{told}, groups of {self.group_size}" if self.group_size else told

    def picked(self, choices: Sequence[Evaluated]) -> tuple[int, ...] | None:
        """The candidate of each of ``choices``: of those that keep more bits their fewest, of those that cannot have
        such tables that of leaving them alone. None where none has exactly these bits."""
        rows = [self._bits(one) for one in choices]
        if not any(self.nbits in row for row in rows):
            return None
        return tuple(row[min(row)] if row else 0 for row in rows)

    def _bits(self, one: Evaluated) -> dict[int, int]:
        """Candidates of this granularity by their bits, from ``nbits`` on."""
        found = {}
        for number, candidate in enumerate(one.choice.candidates):
            nbits = self._of(candidate)
            if nbits is not None and nbits >= self.nbits:
                found[nbits] = number
        return found

    def _of(self, candidate: Candidate) -> int | None:
        made = candidate.specification
        if candidate.request is None or made is None or made.cluster_dim != 1:
            return None
        return candidate.request.nbits if (made.group_size or 0) == self.group_size else None


ONE_TABLE = tuple(map(Granularity, LEGAL_NBITS))
# With the most bits first: of each group size the first that fits is the best that does.
GRANULARITIES = tuple(
    tuple(Granularity(nbits, size) for nbits in sorted(LEGAL_NBITS, reverse=True)) for size in (0, *GROUP_SIZES)
)
