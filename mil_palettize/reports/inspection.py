"""What is in a package: what the model takes and gives, every constant, and what palettization would make of it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from mil_palettize.planning.default_reasons import ASSUMED_THRESHOLD, default_decisions
from mil_palettize.program.blob_uses import blob_uses
from mil_palettize.program.form_names import describe_form
from mil_palettize.program.interface import Feature, interface
from mil_palettize.program.model import Model
from mil_palettize.program.scopes import is_constant_op
from mil_palettize.program.sites import Site
from mil_palettize.program.values import value_nbytes
from mil_palettize.program.weight import WeightId
from mil_palettize.reports.decibels import snr_text
from mil_palettize.reports.orders import Order
from mil_palettize.reports.tables import format_table, wrapped_lines
from mil_palettize.text import columns, format_bytes, format_count, format_some, printable, shorten

_FEATURES = ("", "name", "dtype", "shape", "values", "in an .npz file")
_DENSE = ("const", "inline")
_MOST_TYPES = 12
_MOST_SHARING = 2  # that are named in text
_MOST_NAMED = 16  # in JSON
_NARROWEST_NAME = 24
_NARROWEST_REASON = 24


@dataclass(frozen=True)
class ConstantInfo:
    """One constant. ``consumers``: (op type, input name). ``form``: ``const``, ``4-bit palette``, ... ``nbytes``: of
    its data, also where other constants share it; ``own_nbytes``: of that, what no constant listed before it has too;
    ``shared_with``: labels of the first few of the ``sharing`` others that have the same data. ``reason``: why it
    would be left alone by 4-bit k-means with the default settings, "" when it would be palettized; ``snr_db``: of that
    palette, where it was asked for and is one. ``block``: path of the nested block that declares it, "" for the
    function's own. ``weight``: whether it is listed as a weight: compressed, large, or read as one by an op.
    ``matched``: names and patterns, of those asked for, that mean it."""

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
    weight: bool = True
    snr_db: float | None = None
    matched: tuple[str, ...] = ()
    own_nbytes: int = 0
    shared_with: tuple[str, ...] = ()
    sharing: int = 0

    @property
    def label(self) -> str:
        """``function/name``, ``main`` left out, with the block where there is one."""
        return _label(self.function, self.name, self.block)


@dataclass
class Inspection:
    """``nbytes``: of all files of the package. ``features``: what functions take and give. ``constant_nbytes`` and
    ``taken_nbytes``: of the data of all constants, and of those that would be palettized, shared data counted once.
    ``op_counts``: ops by type, constants left out. ``match``: names and patterns that were asked for, () for none."""

    path: str
    nbytes: int
    functions: list[tuple[str, str]]
    constants: list[ConstantInfo]
    constant_nbytes: int
    taken_nbytes: int
    notes: list[str] = field(default_factory=list)
    features: list[Feature] = field(default_factory=list)
    op_counts: dict[str, int] = field(default_factory=dict)
    match: tuple[str, ...] = ()

    @property
    def dtypes(self) -> dict[str, tuple[int, int]]:
        """How many constants there are of each dtype, and their bytes, shared data counted once; most bytes first."""
        count = Counter(constant.dtype for constant in self.constants)
        nbytes: Counter[str] = Counter()
        for constant in self.constants:
            nbytes[constant.dtype] += constant.own_nbytes
        return {dtype: (count[dtype], total) for dtype, total in nbytes.most_common()}

    def listed(self, sort: Order = "bytes", *, every: bool = False) -> list[ConstantInfo]:
        """Those that a table has: what was matched, else weights, or ``every`` constant; the largest, the worst SNR or
        the first name in front."""
        if self.match:
            chosen = [constant for constant in self.constants if constant.matched]
        else:
            chosen = [constant for constant in self.constants if every or constant.weight]
        if sort == "name":
            return sorted(chosen, key=lambda c: (c.function, c.name))
        if sort == "snr":
            return sorted(chosen, key=lambda c: (math.inf if c.snr_db is None else c.snr_db, -c.nbytes))
        return sorted(chosen, key=lambda c: -c.nbytes)

    def to_json(self, indent: int | None = 2) -> str:
        """All figures; an infinite SNR is null."""
        data = dataclasses.asdict(self)
        for constant in data["constants"]:
            if constant["snr_db"] is not None and not math.isfinite(constant["snr_db"]):
                constant["snr_db"] = None
        return json.dumps(data, indent=indent, allow_nan=False)

    def to_text(self, width: int = 110, *, sort: Order = "bytes", every: bool = False) -> str:
        """What goes in and out, totals, then a line for each weight; at most ``width`` columns where these are 70 or
        more. ``sort``, ``every``: as for :meth:`listed`."""
        header, rows = constant_rows(self, sort, every)
        blocks = [
            "\n".join(wrapped_lines(head_lines(self), width)),
            "" if self.match else format_table(*feature_rows(self), width),
            "" if self.match else "\n".join(wrapped_lines(total_lines(self), width)),
            _one_line_each(header, rows, width) if rows else "",
            "\n".join(wrapped_lines(rest_lines(self, len(rows)), width)),
        ]
        return printable("\n\n".join(block for block in blocks if block)) + "\n"

    def __str__(self) -> str:
        return self.to_text()


def head_lines(inspected: Inspection) -> list[str]:
    """The package, and its functions."""
    functions = ", ".join(f"{name} ({opset})" for name, opset in inspected.functions)
    return [f"{inspected.path}: {format_bytes(inspected.nbytes)}", f"functions: {functions}"]


def feature_rows(inspected: Inspection) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of what functions take and give; the function where there are several."""
    several = len({feature.function for feature in inspected.features}) > 1
    return _FEATURES, [_feature_row(feature, several) for feature in inspected.features]


def _feature_row(feature: Feature, several: bool) -> tuple[str, ...]:
    name = f"{feature.function}/{feature.name}" if several else feature.name
    given = f"{feature.name}: {feature.given}" if feature.given else ""
    optional = ", may be left out" if feature.optional and feature.given else ""
    return feature.role, name, feature.dtype, feature.shape, feature.values, given + optional


def total_lines(inspected: Inspection) -> list[str]:
    """Constants by dtype, and ops by type."""
    dtypes = [f"{count} {dtype} ({format_bytes(nbytes)})" for dtype, (count, nbytes) in inspected.dtypes.items()]
    ops = [f"{kind} {count}" for kind, count in inspected.op_counts.items()]
    return [
        f"{format_count(len(inspected.constants), 'constant')}, {format_bytes(inspected.constant_nbytes)} of values: "
        + ", ".join(dtypes),
        f"{format_count(sum(inspected.op_counts.values()), 'op')}: {format_some(ops, _MOST_TYPES)}",
    ]


def constant_rows(inspected: Inspection, sort: Order, every: bool) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of constants; with SNR where it is known of any."""
    known = any(constant.snr_db is not None for constant in inspected.constants)
    named = "constant" if every or inspected.match else "weight"
    header = (named, "shape", "dtype", "bytes", "form", *(("4 bits, dB",) if known else ()), "read by: left alone as")
    return header, [_constant_row(constant, known) for constant in inspected.listed(sort, every=every)]


def _constant_row(constant: ConstantInfo, snr: bool) -> tuple[str, ...]:
    readers = ", ".join(dict.fromkeys(op for op, _ in constant.consumers)) or "nothing"
    if constant.shared_with:
        readers += f" (stored once with {format_some(constant.shared_with, _MOST_SHARING, constant.sharing)})"
    return (
        printable(constant.label),
        "×".join(map(str, constant.shape)) or "scalar",
        constant.dtype,
        format_bytes(constant.nbytes),
        constant.form,
        *((snr_text(constant.snr_db),) if snr else ()),
        printable(f"{readers}: {constant.reason}" if constant.reason else readers),
    )


def rest_lines(inspected: Inspection, listed: int) -> list[str]:
    """What the table leaves out, what palettes would be made of, and notes."""
    rest = len(inspected.constants) - listed
    taken = sum(not constant.reason for constant in inspected.constants)
    if inspected.match:
        asked = ", ".join(map(repr, inspected.match))
        return [f"{asked}: {format_count(listed, 'constant')} of {len(inspected.constants)}", *inspected.notes]
    others = [f"{format_count(rest, 'other constant')}, not weights (--all lists them)"] if rest else []
    return [
        *others,
        f"{taken} would be palettized by default, {format_bytes(inspected.taken_nbytes)}",
        *_compressed_lines(inspected),
        *inspected.notes,
    ]


def _compressed_lines(inspected: Inspection) -> list[str]:
    """What to do about weights that are compressed already, where there are any."""
    compressed = sum(constant.form not in _DENSE for constant in inspected.constants)
    if not compressed:
        return []
    return [
        f"{compressed} compressed already: palettize takes palettes with --redo only, sparse and quantized weights "
        "with --joint (from iOS18); palettes of the package that they were made from are better"
    ]


def _one_line_each(header: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    """A table whose first and last cells are cut to what is left of the width, if that is enough."""
    middle = sum(max(columns(row[i]) for row in (header, *rows)) + 2 for i in range(1, len(header) - 1))
    left = width - middle - 2
    names = max(columns(row[0]) for row in (header, *rows))
    reasons = max(columns(row[-1]) for row in (header, *rows))
    if left < _NARROWEST_NAME + _NARROWEST_REASON:
        return format_table(header, rows, width)
    reasons = min(reasons, max(_NARROWEST_REASON, left - names))
    return format_table(
        header, [(shorten(row[0], left - reasons), *row[1:-1], shorten(row[-1], reasons)) for row in rows], width
    )


def inspection(
    path: str,
    model: Model,
    *,
    matched: Mapping[WeightId, Collection[str]] | None = None,
    match: Sequence[str] = (),
    snr: Mapping[WeightId, float] | None = None,
) -> Inspection:
    """What is in the package at ``path``, of which ``model`` is the model. ``matched``: which of the entries ``match``
    mean a constant; ``snr``: of the palettes that constants would get."""
    survey = model.survey()
    decisions = default_decisions([site.weight for site in survey.sites])
    reasons = {weight.id: decision.reason for weight, decision in decisions.items()}
    data = [_Data.of(site) for site in survey.sites]
    own = _own_nbytes(data)
    sharing = _sharing(survey.sites, data)
    return Inspection(
        path=path,
        nbytes=model.package.nbytes(),
        functions=model.functions(),
        constants=[
            dataclasses.replace(
                _constant(
                    site,
                    reasons[site.weight.id],
                    tuple((matched or {}).get(site.weight.id, ())),
                    (snr or {}).get(site.weight.id),
                ),
                own_nbytes=own[number],
                shared_with=sharing[number][0],
                sharing=sharing[number][1],
            )
            for number, site in enumerate(survey.sites)
        ],
        constant_nbytes=sum(own),
        taken_nbytes=sum(
            _own_nbytes([d for site, d in zip(survey.sites, data, strict=True) if not reasons[site.weight.id]])
        ),
        notes=model.remarks(),
        features=interface(model),
        op_counts={kind: n for kind, n in survey.op_counts.most_common() if not is_constant_op(kind)},
        match=tuple(match),
    )


def _constant(site: Site, reason: str, matched: tuple[str, ...], snr_db: float | None) -> ConstantInfo:
    weight = site.weight
    acts = len(weight.shape) > 1 and weight.acts_as_weight
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
        weight=acts or weight.size > ASSUMED_THRESHOLD or weight.form not in _DENSE,
        snr_db=snr_db,
        matched=matched,
    )


@dataclass(frozen=True)
class _Data:
    """``records``: of weight files, which constants may share, and their bytes; ``inside``: bytes in the program."""

    records: dict[tuple[str, int], int]
    inside: int

    @classmethod
    def of(cls, site: Site) -> _Data:
        uses = blob_uses(site.value if site.weight.form == "inline" else site.op)
        records = {(use.file_name, use.offset): value_nbytes(use.value) for use in uses}
        return cls(records, site.weight.nbytes - sum(value_nbytes(use.value) for use in uses))


def _own_nbytes(data: Sequence[_Data]) -> list[int]:
    """Bytes of each that none before it has."""
    seen: set[tuple[str, int]] = set()
    found = []
    for one in data:
        found.append(one.inside + sum(nbytes for record, nbytes in one.records.items() if record not in seen))
        seen |= one.records.keys()
    return found


def _sharing(sites: Sequence[Site], data: Sequence[_Data]) -> list[tuple[tuple[str, ...], int]]:
    """The labels of the first few others that each shares a record with, and how many share the one that most do: a
    list of all for each would be as long as the square of their number."""
    users: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
    for number, one in enumerate(data):
        for record in one.records:
            users[record].append(number)
    labels = [_label(site.weight.function, site.weight.name, site.weight.block) for site in sites]
    found = []
    for number, one in enumerate(data):
        first = (other for record in one.records for other in users[record][: _MOST_NAMED + 1] if other != number)
        names = tuple(labels[other] for other in dict.fromkeys(first))[:_MOST_NAMED]
        found.append((names, max((len(users[record]) - 1 for record in one.records), default=0)))
    return found


def _label(function: str, name: str, block: str) -> str:
    own = name if function == "main" else f"{function}/{name}"
    return f"{own} in {block}" if block else own
