"""What happened to each weight, for a person (``to_text``) and for a script (``to_json``)."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mil_palettize.program.weight import WeightId
from mil_palettize.reports.decibels import snr_text
from mil_palettize.reports.model_comparison import ModelComparison
from mil_palettize.reports.page.document import outputs_section
from mil_palettize.reports.page.frame import base_name
from mil_palettize.reports.page.notebook import framed
from mil_palettize.reports.page.table_page import Table, Tile, table_page
from mil_palettize.reports.tables import format_table, grouped_lines, indented_lines
from mil_palettize.text import format_bytes, format_count, printable, shorten

LARGEST = 10
_DENSE_HEADER = ("weight", "shape", "read by", "was", "before", "after")
_PALETTE_HEADER = ("weight", "shape", "read by", "palette", "before", "after", "SNR dB")
PALETTIZED = "palettized"
DECOMPRESSED = "decompressed"
COUNT_UNKNOWN = "a weight file's record count is wrong: records that nothing points at were dropped uncounted"


@dataclass(frozen=True)
class CalibrationReport:
    """How a palette was chosen by what its op gives. ``method``: in words; ``damping``: relative; ``samples``: that
    were looked at, 0 where it came from the weights alone; ``before_db`` and ``after_db``: signal to noise of the op's
    output on samples held out, with the plain palette and with this one, None where none were."""

    method: str
    damping: float
    samples: int
    before_db: float | None
    after_db: float | None


@dataclass(frozen=True)
class WeightReport:
    """One constant above the threshold, or one that was compressed.

    ``consumers``: (op type, input name) of every op that reads it. ``status``: "palettized", "decompressed" or
    "skipped", then with a ``reason``. ``mode``: how the palette was made; when decompressing, the compressed form.
    ``group_size`` is None for one palette per tensor; ``channel_axis``, of groups and of vectors, where there are
    neither; ``cluster_dim``: elements of a vector, 1 for scalars, None without a palette. ``bytes_after``: indices and
    look-up tables; None in a dry run where it depends on the values. ``snr_db``: signal to noise of the palette,
    10·log10(Σw² / Σ(w-w')²); infinite when it is lossless, None when skipped or not computed.
    ``squared_error``: Σ(w-w')²; ``weighted_error``: with every term times the importance of its element, None where no
    importance was given. ``digest``: SHA-256 of all parts, "" without a palette or in a dry run.
    ``scale_axis``: of a scale for each channel; ``lut_dtype``: of a quantized table, both None where there is none.
    ``joint``: what the palette is of, a constant's "sparse" or "scaled" values, "" for a dense one's.
    ``calibration``: how it was chosen by the op's output, None without one.
    ``notes``: what was done otherwise than asked, or decided between requests. ``block``: path of the nested block that
    declares it, "" for the function's own.
    """

    name: str
    function: str
    shape: tuple[int, ...]
    dtype: str
    consumers: list[tuple[str, str]]
    status: str
    reason: str
    mode: str | None
    nbits: int | None
    granularity: str | None
    group_size: int | None
    channel_axis: int | None
    bytes_before: int
    bytes_after: int | None
    snr_db: float | None
    squared_error: float | None
    seconds: float
    notes: tuple[str, ...] = ()
    digest: str = ""
    cluster_dim: int | None = None
    scale_axis: int | None = None
    lut_dtype: str | None = None
    joint: str = ""
    weighted_error: float | None = None
    calibration: CalibrationReport | None = None
    block: str = ""

    @property
    def id(self) -> WeightId:
        """What tells it from every other constant of the model."""
        return WeightId(self.function, self.block, self.name)

    @property
    def bits_per_weight(self) -> float | None:
        """Stored bits per element, look-up tables included; None where unknown, or without elements."""
        count = math.prod(self.shape)
        return None if self.bytes_after is None or not count else self.bytes_after * 8 / count

    @property
    def label(self) -> str:
        """``function/name``, ``main`` left out."""
        return self.name if self.function == "main" else f"{self.function}/{self.name}"

    @property
    def lossless(self) -> bool:
        return self.squared_error == 0


@dataclass(frozen=True)
class BiasReport:
    """A bias that calibration changed. ``largest``: change of an element; ``digest``: of the record that it is stored
    as now (see ``program/fingerprints.py``)."""

    name: str
    function: str
    block: str
    largest: float
    digest: str

    @property
    def id(self) -> WeightId:
        return WeightId(self.function, self.block, self.name)


@dataclass(frozen=True)
class Moved:
    """Something a move to a later opset changed; ``op_name`` is "" for the function itself."""

    function: str
    op_name: str
    op_type: str
    what: str


@dataclass
class Report:
    """A whole run. ``action``: "palettized", or "decompressed", which lists compressed constants only.
    ``bytes_before`` and ``bytes_after``: of all files of the package. ``small``: constants at or
    below their threshold, which are not in ``weights``. ``dropped_records``: of weight files, that nothing
    pointed at (None where that could not be told). ``check``: both packages run on the same inputs, where that was
    asked for. ``biases``: that calibration changed."""

    source: str
    destination: str | None
    bytes_before: int
    bytes_after: int
    weights: list[WeightReport] = field(default_factory=list)
    moved: list[Moved] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    small: int = 0
    dropped_records: int | None = 0
    action: str = PALETTIZED
    dry_run: bool = False
    verified: bool = False
    seconds: float = 0.0
    check: ModelComparison | None = None
    biases: list[BiasReport] = field(default_factory=list)

    @property
    def palettized(self) -> list[WeightReport]:
        return [w for w in self.weights if w.status == PALETTIZED]

    @property
    def decompressed(self) -> list[WeightReport]:
        return [w for w in self.weights if w.status == DECOMPRESSED]

    @property
    def skipped(self) -> list[WeightReport]:
        return [w for w in self.weights if w.status == "skipped"]

    def to_dict(self) -> dict[str, Any]:
        """Plain types only; infinite SNR is None with ``lossless`` true."""
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        data["check"] = None if self.check is None else self.check.to_dict()
        data["weights"] = [_weight_dict(w) for w in self.weights]
        data["moved"] = [dataclasses.asdict(m) for m in self.moved]
        data["biases"] = [dataclasses.asdict(b) for b in self.biases]
        return data

    def to_json(self, indent: int | None = 2) -> str:
        """Valid JSON (no Infinity or NaN)."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def to_text(self, width: int = 110) -> str:
        """Totals, the largest palettes, what was left alone and why, what was moved; at most ``width`` columns."""
        labels = self.labels()
        noted = grouped_lines(((note, labels[w.id]) for w in self.weights for note in w.notes), width)
        changed = self.palettized + self.decompressed
        table = _dense_table if self.action == DECOMPRESSED else _palette_table
        blocks = [
            self._totals(),
            table(changed, labels, width),
            _titled("left alone", grouped_lines(((w.reason, labels[w.id]) for w in self.skipped), width)),
            _titled("moved to a later opset", _moved_lines(self.moved, width)),
            _titled("biases corrected", _bias_lines(self.biases)),
            "" if self.check is None else self.check.outputs_text(width),
            _titled("notes", indented_lines(self.notes, width) + noted),
        ]
        return printable("\n\n".join(block for block in blocks if block)) + "\n"

    def to_html(self) -> str:
        """A page that needs nothing else, to be saved as UTF-8."""
        labels = self.labels()
        changed = _by_size(self.palettized + self.decompressed)
        header: Sequence[str]
        rows: list[tuple[str, ...]]
        if self.action == DECOMPRESSED:
            header, rows = _DENSE_HEADER, [_row(w, labels[w.id], w.mode or "") for w in changed]
        else:
            header = _PALETTE_HEADER
            rows = [(*_row(w, labels[w.id], _palette_words(w)), snr_text(w.snr_db)) for w in changed]
        skipped = [(labels[w.id], w.reason, format_bytes(w.bytes_before)) for w in _by_size(self.skipped)]
        tables = [
            Table("Weights", header, rows, numbers=frozenset((4, 5, 6))),
            Table("Left alone", ("weight", "why", "size"), skipped, numbers=frozenset((2,)), folded=True),
            Table("Moved", ("op", "what"), [(m.op_name or m.function, m.what) for m in self.moved], folded=True),
        ]
        route, sizes, counts, *others = self._totals().splitlines()
        tiles = [Tile("Size", *sizes.split(", ", 1)), Tile("Constants", *counts.split(", ", 1))]
        noted = [f"{labels[w.id]}: {note}" for w in self.weights for note in w.notes]
        outputs = [] if self.check is None else [outputs_section(self.check.outputs)]
        return table_page(base_name(self.source), tiles, [route, *others, *self.notes, *noted], tables, outputs)

    def _repr_html_(self) -> str:
        """In a notebook."""
        return framed(self.to_html())

    def labels(self) -> dict[WeightId, str]:
        """What each weight is called in text: with its function and block where its name alone is that of several."""
        names = Counter(name for _, name in {(weight.function, weight.name) for weight in self.weights})
        labels = Counter(weight.label for weight in self.weights)
        told = {}
        for weight in self.weights:
            label = f"{weight.function}/{weight.name}" if names[weight.name] > 1 else weight.label
            told[weight.id] = f"{label} in {weight.block}" if weight.block and labels[weight.label] > 1 else label
        return told

    def _totals(self) -> str:
        done = f"would be {self.action}" if self.dry_run else self.action
        small = f", {self.small} at or below the threshold" if self.action == PALETTIZED else ""
        changed = self.palettized + self.decompressed
        lines = [
            f"{self.source} → {self.destination or ('(dry run)' if self.dry_run else 'a new one')}",
            f"{format_bytes(self.bytes_before)} → {'about ' if self.dry_run else ''}{format_bytes(self.bytes_after)}"
            + _times(self.bytes_before, self.bytes_after)
            + ("" if self.dry_run else f", in {self.seconds:.2f} s")
            + (", verified" if self.verified else ""),
            f"{format_count(len(changed), 'constant')} {done}, {len(self.skipped)} left alone{small}",
        ]
        if self.action == PALETTIZED and not changed:
            lines.append(f"Nothing {'would be' if self.dry_run else 'was'} palettized.")
        if self.action == DECOMPRESSED and not self.weights:
            lines.append("Nothing is compressed in it: the new package holds what the old one does.")
        if self.dropped_records:
            lines.append(f"{format_count(self.dropped_records, 'record')} that nothing pointed at dropped")
        return "\n".join(lines)


def _bias_lines(biases: Sequence[BiasReport]) -> list[str]:
    """The largest changes first."""
    shown = sorted(biases, key=lambda bias: -bias.largest)[:LARGEST]
    more = [f"  … and {len(biases) - LARGEST} more"] if len(biases) > LARGEST else []
    return [f"  {printable(bias.name)} by up to {bias.largest:.3g}" for bias in shown] + more


def _times(before: int, after: int) -> str:
    if not before or not after:
        return ""
    ratio, word = (before / after, "smaller") if before >= after else (after / before, "larger")
    return f", {ratio:.2f} times {word}" if f"{ratio:.2f}" != "1.00" else ", about the same"


def _weight_dict(weight: WeightReport) -> dict[str, Any]:
    data = dataclasses.asdict(weight)
    data["consumers"] = [list(c) for c in weight.consumers]
    data["shape"] = list(weight.shape)
    data["notes"] = list(weight.notes)
    data["bits_per_weight"] = weight.bits_per_weight
    data["lossless"] = weight.lossless if weight.status == PALETTIZED else None
    for figure in ("snr_db", "squared_error"):
        if data[figure] is not None and not math.isfinite(data[figure]):
            data[figure] = None
    if weight.calibration is not None:
        for name in ("before_db", "after_db"):
            told = data["calibration"][name]
            data["calibration"][name] = told if told is not None and math.isfinite(told) else None
    return data


def _palette_table(weights: list[WeightReport], labels: Mapping[WeightId, str], width: int) -> str:
    rows = [(*_row(w, labels[w.id], _palette_words(w)), snr_text(w.snr_db)) for w in _largest(weights)]
    return _table(_PALETTE_HEADER, rows, len(weights), width)


def _dense_table(weights: list[WeightReport], labels: Mapping[WeightId, str], width: int) -> str:
    rows = [_row(w, labels[w.id], shorten(w.mode or "", 40)) for w in _largest(weights)]
    return _table(_DENSE_HEADER, rows, len(weights), width)


def _largest(weights: list[WeightReport]) -> list[WeightReport]:
    return _by_size(weights)[:LARGEST]


def _by_size(weights: list[WeightReport]) -> list[WeightReport]:
    return sorted(weights, key=lambda w: -w.bytes_before)


def _row(weight: WeightReport, label: str, form: str) -> tuple[str, ...]:
    return (
        printable(label),
        "×".join(map(str, weight.shape)) + f" {weight.dtype}",
        shorten(printable(", ".join(dict.fromkeys(op for op, _ in weight.consumers))), 18),
        form,
        format_bytes(weight.bytes_before),
        format_bytes(weight.bytes_after) if weight.bytes_after is not None else "?",
    )


def _table(header: tuple[str, ...], rows: Sequence[Sequence[str]], count: int, width: int) -> str:
    """The rows of the largest of ``count`` weights, and how many are not shown."""
    if not rows:
        return ""
    table = format_table(header, rows, width, right=4)
    more = count - len(rows)
    return table + (f"\n… and {more} more" if more else "")


def _palette_words(weight: WeightReport) -> str:
    bits = f" {weight.nbits} bit" if weight.nbits else ""
    vectors = f" v{weight.cluster_dim}" if (weight.cluster_dim or 1) > 1 else ""
    groups = f" g{weight.group_size}" if weight.group_size else ""
    axis = f" axis {weight.channel_axis}" if weight.channel_axis is not None else ""
    scale = " ×scale" if weight.scale_axis is not None else ""
    table = f" {weight.lut_dtype}" if weight.lut_dtype else ""
    joint = f", {weight.joint}" if weight.joint else ""
    return f"{weight.mode}{bits}{vectors}{groups}{axis}{table}{scale}{joint}"


def _moved_lines(moved: list[Moved], width: int) -> list[str]:
    """Functions first, then ops by what was changed in them."""
    functions = indented_lines((f"{m.function}: {m.what}" for m in moved if not m.op_name), width)
    ops = ((f"{m.op_type}: {m.what}", f"{m.function}/{m.op_name}") for m in moved if m.op_name)
    return functions + grouped_lines(ops, width)


def _titled(title: str, lines: list[str]) -> str:
    return "\n".join([f"{title}:", *lines]) if lines else ""
