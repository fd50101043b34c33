"""The door for looking at packages on disk: what is in one, and how two differ."""

from __future__ import annotations

import os

from mil_palettize.errors import memory_told
from mil_palettize.program.model import Model
from mil_palettize.reports.inspection import Inspection, inspection
from mil_palettize.reports.package_diff import Difference, difference

PathLike = str | os.PathLike[str]


@memory_told()
def inspect_package(path: PathLike) -> Inspection:
    """Look at the package at ``path`` without changing it. Raises PackageError when it cannot be read."""
    with Model.open(path) as model:
        return inspection(os.fspath(path), model)


@memory_told()
def diff_packages(first: PathLike, second: PathLike) -> Difference:
    """Compare two packages. Raises PackageError when one cannot be read."""
    with Model.open(first) as a, Model.open(second) as b:
        return difference(os.fspath(first), a, os.fspath(second), b)
