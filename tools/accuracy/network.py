"""What the tool asks of a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class Place:
    """``data``: the folder that the command names; ``folder``: temporary, for packages; ``images``: of a test, at
    most."""

    data: Path
    folder: Path
    images: int


class Network(Protocol):
    """A trained network as a package, samples to calibrate it with, and a test apart from these."""

    @property
    def source(self) -> Path:
        """The package to palettize."""

    @property
    def figures(self) -> tuple[str, ...]:
        """Headings of what :meth:`measured` gives; the first one is what a plot shows."""

    def samples(self, count: int, seed: int) -> Sequence[Mapping[str, Any]]:
        """At most ``count`` of those to calibrate with, drawn by ``seed``."""

    def measured(self, package: Path) -> tuple[float, ...]:
        """Figures of a package made of ``source``, on the test."""


@runtime_checkable
class Labelled(Network, Protocol):
    """One whose samples have right classes."""

    def labels(self, count: int, seed: int) -> Sequence[int]:
        """Of those that :meth:`samples` gives."""


Opened = Callable[[Place], Network]
