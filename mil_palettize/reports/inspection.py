"""What is in a package: every constant, who reads it, and what palettization would make of it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from mil_palettize.planning.default_reasons import default_reasons
from mil_palettize.program.blob_uses import blob_uses
from mil_palettize.program.form_names import describe_form
from mil_palettize.program.model import Model
from mil_palettize.program.sites import Site
from mil_palettize.program.values import value_nbytes
from mil_palettize.reports.tables import format_table
from mil_palettize.text import format_bytes, format_count, printable


@dataclass(frozen=True)
class ConstantInfo:
    """One constant. ``consumers``: (op type, input name). ``form``: ``const``, ``4-bit palette``, ... ``nbytes``: of
    its data, also where other constants share it. ``reason``: why it would be left alone by 4-bit k-means with the
    default settings, "" when it would be palettized. ``block``: path of the nested block that declares it, "" for the
    function's own."""

    name: str
    function: str
    opset: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    form: str
    consumers: list[tuple[str, str]]
    reason: str
    block: str = ""


@dataclass
class Inspection:
    """``nbytes``: of all files of the package. ``constant_nbytes`` and ``taken_nbytes``: of the data of all
    constants, and of those that would be palettized, shared data counted once."""

    path: str
    nbytes: int
    functions: list[tuple[str, str]]
    constants: list[ConstantInfo]
    constant_nbytes: int
    taken_nbytes: int
    notes: list[str] = dataclasses.field(default_factory=list)

    def to_json(self, indent: int | None = 2) -> str:
        return json.dumps(dataclasses.asdict(self), indent=indent, allow_nan=False)

    def to_text(self, width: int = 110) -> str:
        """Every constant, the largest first, totals at the end; at most ``width`` columns."""
        rows = [
            (
                printable(_label(c)),
                "×".join(map(str, c.shape)) or "scalar",
                c.dtype,
                format_bytes(c.nbytes),
                c.form,
                printable(f"{_readers(c)}: {c.reason or 'would be palettized'}"),
            )
            for c in sorted(self.constants, key=lambda c: -c.nbytes)
        ]
        table = format_table(("constant", "shape", "dtype", "bytes", "form", "read by: palettization"), rows, width)
        taken = sum(not c.reason for c in self.constants)
        totals = (
            f"{self.path}: {format_bytes(self.nbytes)}",
            "functions: " + ", ".join(f"{name} ({opset})" for name, opset in self.functions),
            f"{format_count(len(self.constants), 'constant')}, {format_bytes(self.constant_nbytes)} of values; "
            f"{taken} would be palettized, {format_bytes(self.taken_nbytes)}",
            *self.notes,
        )
        return "\n".join([table, "", *map(printable, totals)]) + "\n"


def _label(constant: ConstantInfo) -> str:
    name = constant.name if constant.function == "main" else f"{constant.function}/{constant.name}"
    return f"{name} in {constant.block}" if constant.block else name


def _readers(constant: ConstantInfo) -> str:
    return ", ".join(dict.fromkeys(f"{op} {name!r}" for op, name in constant.consumers)) or "nothing"


def inspection(path: str, model: Model) -> Inspection:
    """What is in the package at ``path``, of which ``model`` is the model."""
    sites = model.survey().sites
    reasons = default_reasons([site.weight for site in sites])
    return Inspection(
        path=path,
        nbytes=model.package.nbytes(),
        functions=model.functions(),
        constants=[_constant(site, reasons[site.weight]) for site in sites],
        constant_nbytes=_data_nbytes(sites),
        taken_nbytes=_data_nbytes([site for site in sites if not reasons[site.weight]]),
        notes=model.remarks(),
    )


def _constant(site: Site, reason: str) -> ConstantInfo:
    weight = site.weight
    return ConstantInfo(
        name=weight.name,
        function=weight.function,
        opset=weight.opset,
        shape=weight.shape,
        dtype=weight.dtype,
        nbytes=weight.nbytes,
        form="inline" if weight.form == "inline" else describe_form(site),
        consumers=[(c.op_type, c.input_name) for c in weight.consumers],
        reason=reason,
        block=weight.block,
    )


def _data_nbytes(sites: list[Site]) -> int:
    """Bytes of the constants' data: records of weight files once, and what is stored in the program itself."""
    records: dict[tuple[str, int], int] = {}
    outside = 0
    for site in sites:
        uses = blob_uses(site.value if site.weight.form == "inline" else site.op)
        records |= {(use.file_name, use.offset): value_nbytes(use.value) for use in uses}
        outside += site.weight.nbytes - sum(value_nbytes(use.value) for use in uses)
    return sum(records.values()) + outside
