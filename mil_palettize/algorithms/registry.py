"""The algorithms, each with its facts: what it needs, what it gives, where it is.

A new algorithm is a file and an entry here; every door, the command line and the precedence of requests follow these
facts. Light to import: implementations are named, and loaded when a palette is first made with them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from mil_palettize.algorithms.specification import PaletteSpecification


class Algorithm(NamedTuple):
    """Facts of one algorithm. Functions are named ``"module:attribute"``.

    ``name``: the mode that users ask for. Either ``codes``, which sees an array and makes the indices as well, or
    ``entries`` for scalars, with ``entries_of_groups`` for many tables at once, and ``vector_entries``, "" where it has
    no vectors (see ``ScalarAlgorithm``, ``ArrayAlgorithm``, ``VectorAlgorithm`` for what they take and give).

    ``chooses_nbits``: a request says no nbits. ``lossless``: every palette decodes to the weight itself. ``optimal``:
    of all entries, those with the least squared error. ``weighs``: it makes the error small where importance is large.
    ``needs_function``: a request brings a ``lut_function``.
    ``keeps_bits``: as how many bits per element it counts where requests differ and the one that keeps more wins; None
    for those it is asked for.
    """

    name: str
    entries: str = ""
    entries_of_groups: str = ""
    vector_entries: str = ""
    codes: str = ""
    chooses_nbits: bool = False
    lossless: bool = False
    optimal: bool = False
    weighs: bool = False
    needs_function: bool = False
    keeps_bits: int | None = None

    @property
    def selectable(self) -> bool:
        """Whether its name alone, perhaps with a number of bits, asks for it: on the command line, in a message."""
        return not self.needs_function

    @property
    def has_vectors(self) -> bool:
        """Whether it makes palettes with ``cluster_dim`` above 1."""
        return bool(self.vector_entries or self.codes)


_SCALAR, _VECTOR = "mil_palettize.algorithms.scalar", "mil_palettize.algorithms.vector"

ALGORITHMS: dict[str, Algorithm] = {
    algorithm.name: algorithm
    for algorithm in (
        Algorithm(
            "kmeans",
            entries=f"{_SCALAR}.kmeans:entries",
            entries_of_groups=f"{_SCALAR}.kmeans:entries_of_groups",
            vector_entries=f"{_VECTOR}.kmeans:entries",
            optimal=True,
            weighs=True,
        ),
        Algorithm("uniform", entries=f"{_SCALAR}.uniform:entries"),
        Algorithm(
            "unique",
            entries=f"{_SCALAR}.unique:entries",
            vector_entries=f"{_SCALAR}.unique:vector_entries",
            chooses_nbits=True,
            lossless=True,
            keeps_bits=10,  # above all others: nothing is lost
        ),
        Algorithm(
            "custom",
            codes=f"{_SCALAR}.custom:codes",
            chooses_nbits=True,
            needs_function=True,
            keeps_bits=9,  # somebody took care
        ),
    )
}


def implementation(name: str) -> Any:
    """What ``"module:attribute"`` names; imported on first use."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def weighs(specification: PaletteSpecification) -> bool:
    """Whether the importance of elements has a say in the palette that is specified."""
    return ALGORITHMS[specification.mode].weighs
