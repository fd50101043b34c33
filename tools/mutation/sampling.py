"""Which mutants are tried, and in what order."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable

from tools.mutation.mutant import Mutant


def in_turns(mutants: Iterable[Mutant], seed: int) -> list[Mutant]:
    """All of them, such that any first so many hold of each file about the part that it has of all (stratified by
    file); of one file in the order of chance."""
    by_file: dict[str, list[Mutant]] = defaultdict(list)
    for mutant in mutants:
        by_file[mutant.file].append(mutant)
    placed: list[tuple[float, str, int, Mutant]] = []
    for file, own in sorted(by_file.items()):
        chance = random.Random(f"{seed} {file}")
        chance.shuffle(own)
        offset = chance.random()  # else the files would come in the same order each time round
        placed.extend(((rank + offset) / len(own), file, rank, mutant) for rank, mutant in enumerate(own))
    return [mutant for *_, mutant in sorted(placed, key=lambda one: one[:3])]
