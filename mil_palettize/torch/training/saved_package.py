"""What was trained written back into the package it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mil_palettize.errors import VerifyError
from mil_palettize.expressions.weight_expr import WeightExpr
from mil_palettize.package.replacement import check_destination, replacing
from mil_palettize.program.model import Model
from mil_palettize.program.opsets.move import Opset
from mil_palettize.program.weight import WeightId
from mil_palettize.rewriting.changed_biases import put_biases
from mil_palettize.rewriting.palette_writer import write_palettes
from mil_palettize.torch.evaluator.module import MILModule


@dataclass(frozen=True)
class Changes:
    """``palettes``: what constants are stored as from now on; ``values``: of others, of their own dtypes."""

    palettes: Mapping[WeightId, WeightExpr]
    values: Mapping[WeightId, np.ndarray]


def save_changes(
    source: Path, function: str, changes: Changes, destination: Path, *, target: Opset | None, overwrite: bool
) -> None:
    """Write the package at ``source``, moved up to ``target`` if given, with ``changes`` to constants of ``function``.
    Raises PackageError, PlanError, VerifyError; nothing is written then."""
    check_destination(source, destination, overwrite)
    with (
        Model.open(source) as model,
        replacing(destination, overwrite=overwrite, needed_bytes=model.package.nbytes()) as staging,
    ):
        if target is not None:
            model.move(target)
        sites = {site.weight.id: site for site in model.survey().sites}
        write_palettes(model, {sites[weight]: expr for weight, expr in changes.palettes.items()}, staging)
        put_biases(staging, changes.values)
        _verify(staging, function, changes)


def _verify(written: Path, function: str, changes: Changes) -> None:
    module = MILModule.from_package(written, function)
    found = {module.constant_id(slot): constant for slot, constant in module.function.constants.items()}
    wanted = {**{weight: expr.decode() for weight, expr in changes.palettes.items()}, **changes.values}
    for weight, array in wanted.items():
        if not np.array_equal(found[weight].decode(), array):
            raise VerifyError(f"{weight.key!r} was written with other values than were trained; please report this")
