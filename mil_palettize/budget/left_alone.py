"""Constants that get no palette, those with the same reason together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from mil_palettize.text import format_bytes

Left = tuple[str, str, int]  # ``function/name``, the reason, and bytes


def by_reason(left: Iterable[Left]) -> Iterator[tuple[str, list[str], str]]:
    """Each reason, in the order that they come in, its constants, and what all of these take, in words."""
    found: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for key, reason, nbytes in left:
        found[reason].append((key, nbytes))
    for reason, of in found.items():
        yield reason, [key for key, _ in of], format_bytes(sum(nbytes for _, nbytes in of))
