"""What is in a package: every constant, who reads it, and what palettization would make of it."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass

from mil_palettize.config import OpPalettizerConfig, OptimizationConfig, normalise
from mil_palettize.forms import FIRST_WITH_PALETTES, FORMS
from mil_palettize.plan import Decision, make_plan
from mil_palettize.program.contents import describe_form
from mil_palettize.program.model import Model
from mil_palettize.program.weight import Weight
from mil_palettize.tables import format_bytes, format_count, format_table, shorten

ASSUMED_NBITS = 4


@dataclass(frozen=True)
class ConstantInfo:
    """One constant. ``consumers``: (op type, input name). ``form``: ``const``, ``4-bit palette``, ... ``reason``:
    why it would be left alone by 4-bit k-means with the default settings, "" when it would be palettized."""

    name: str
    function: str
    opset: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    form: str
    consumers: list[tuple[str, str]]
    reason: str


@dataclass
class Inspection:
    """``nbytes``: of all files of the package."""

    path: str
    nbytes: int
    functions: list[tuple[str, str]]
    constants: list[ConstantInfo]

    def to_json(self, indent: int | None = 2) -> str:
        return json.dumps(dataclasses.asdict(self), indent=indent, allow_nan=False)

    def to_text(self, width: int = 110) -> str:
        """Every constant, the largest first, totals at the end."""
        rows = [
            (
                shorten(f"{c.function}/{c.name}" if c.function != "main" else c.name, max(20, width - 90)),
                "×".join(map(str, c.shape)) or "scalar",
                c.dtype,
                format_bytes(c.nbytes),
                shorten(c.form, 24),
                shorten(", ".join(dict.fromkeys(f"{op} {name!r}" for op, name in c.consumers)) or "-", 30),
                c.reason or "would be palettized",
            )
            for c in sorted(self.constants, key=lambda c: -c.nbytes)
        ]
        table = format_table(("constant", "shape", "dtype", "bytes", "form", "read by", "palettization"), rows)
        taken = [c for c in self.constants if not c.reason]
        functions = ", ".join(f"{name} ({opset})" for name, opset in self.functions)
        return (
            f"{table}\n\n{self.path}: {format_bytes(self.nbytes)}; functions {functions}\n"
            f"{format_count(len(self.constants), 'constant')}, {format_bytes(sum(c.nbytes for c in self.constants))};"
            f" {len(taken)} would be palettized, {format_bytes(sum(c.nbytes for c in taken))}\n"
        )


def inspect_package(path: str | os.PathLike[str]) -> Inspection:
    """Look at the package at ``path`` without changing it. Raises PackageError when it cannot be read."""
    with Model.open(path) as model:
        survey = model.survey()
        reasons = _reasons([site.weight for site in survey.sites])
        constants = [
            ConstantInfo(
                name=w.name,
                function=w.function,
                opset=w.opset,
                shape=w.shape,
                dtype=w.dtype,
                nbytes=w.nbytes,
                form="inline" if w.form == "inline" else describe_form(site),
                consumers=[(c.op_type, c.input_name) for c in w.consumers],
                reason=reasons[w],
            )
            for site in survey.sites
            for w in (site.weight,)
        ]
        return Inspection(os.fspath(path), model.package.nbytes(), model.functions(), constants)


def _reasons(weights: list[Weight]) -> dict[Weight, str]:
    """Why each would be left alone by the default settings."""
    config = OptimizationConfig(global_config=OpPalettizerConfig(mode="kmeans", nbits=ASSUMED_NBITS))
    requests = normalise(config)
    after = {name: FIRST_WITH_PALETTES for name, form in FORMS.items() if form is None}
    plan = make_plan(
        weights, requests, select="weights", strict=False, opset_after=after, op_types=set(), op_names=set()
    )
    decided: dict[Weight, Decision] = {d.weight: d for d in plan.decisions}
    small = "{:,} elements, not above weight_threshold={:,}"
    return {
        w: decided[w].reason if w in decided else w.obstacle or small.format(w.size, requests.threshold)
        for w in weights
    }
