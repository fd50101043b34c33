"""What happened to each weight, for a person (``to_text``) and for a script (``to_json``)."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mil_palettize.program.weight import WeightId
from mil_palettize.reports.model_comparison import ModelComparison
from mil_palettize.reports.orders import Order
from mil_palettize.reports.page.document import outputs_section
from mil_palettize.reports.page.frame import base_name
from mil_palettize.reports.page.notebook import framed
from mil_palettize.reports.page.table_page import Table, Tile, table_page
from mil_palettize.reports.tables import grouped_lines, indented_lines, wrapped_lines
from mil_palettize.reports.weight_report import DECOMPRESSED, PALETTIZED, BiasReport, Moved, WeightReport
from mil_palettize.reports.weight_rows import (
    DENSE_HEADER,
    LARGEST,
    PALETTE_HEADER,
    folded_reasons,
    ordered,
    snr_lines,
    weight_rows,
    weight_table,
)
from mil_palettize.text import format_bytes, format_count, printable

COUNT_UNKNOWN = "a weight file's record count is wrong: records that nothing points at were dropped uncounted"
_MOST_REASONS = 2  # that are told where nothing is palettized
_MUCH = 0.1  # of a package: when small weights are so much of it, it is told how to take them too


@dataclass
class Report:
    """A whole run. ``action``: "palettized", or "decompressed", which lists compressed constants only.
    ``bytes_before`` and ``bytes_after``: of all files of the package. ``small``: constants at or below their
    threshold, which are not in ``weights``; ``small_nbytes``: of the weights among these. ``dropped_records``: of
    weight files, that nothing pointed at (None where that could not be told). ``check``: both packages run on the
    same inputs, where that was asked for. ``biases``: that calibration changed. ``print`` shows it as text.

    >>> config = OptimizationConfig(global_config=OpPalettizerConfig(nbits=4))
    >>> report = palettize_package("fixtures/conv_fp16_ios18.mlpackage", None, config, dry_run=True)
    >>> print(report.to_text().splitlines()[2])
    5 constants would be palettized, 0 left alone, 34 at or below the threshold
    """

    source: str
    destination: str | None
    bytes_before: int
    bytes_after: int
    weights: list[WeightReport] = field(default_factory=list)
    moved: list[Moved] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    small: int = 0
    small_nbytes: int = 0
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
        data["weights"] = [w.to_dict() for w in self.weights]
        data["moved"] = [dataclasses.asdict(m) for m in self.moved]
        data["biases"] = [dataclasses.asdict(b) for b in self.biases]
        return data

    def to_json(self, indent: int | None = 2) -> str:
        """Valid JSON (no Infinity or NaN)."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def to_text(self, width: int = 110, *, sort: Order = "bytes", every: bool = False) -> str:
        """Totals, palettes, what was left alone and why, what was moved; at most ``width`` columns. ``sort``: which of
        the palettes come first; ``every``: all of them, else the first ten."""
        labels = self.labels()
        noted = grouped_lines(((note, labels[w.id]) for w in self.weights for note in w.notes), width)
        changed = ordered(self.palettized + self.decompressed, sort)
        blocks = [
            "\n".join([self._totals(), *wrapped_lines(snr_lines(self.palettized, labels), width)]),
            weight_table(changed, labels, width, dense=self.action == DECOMPRESSED, every=every),
            _titled("left alone", grouped_lines(folded_reasons((w.reason, labels[w.id]) for w in self.skipped), width)),
            _titled("moved to a later opset", _moved_lines(self.moved, width)),
            _titled("biases corrected", _bias_lines(self.biases)),
            "" if self.check is None else self.check.outputs_text(width),
            _titled("notes", indented_lines(self.notes, width) + noted),
            self._next(),
        ]
        return printable("\n\n".join(block for block in blocks if block)) + "\n"

    def __str__(self) -> str:
        return self.to_text()

    def to_html(self, *, sort: Order = "bytes") -> str:
        """A page that needs nothing else, to be saved as UTF-8."""
        labels, dense = self.labels(), self.action == DECOMPRESSED
        header = DENSE_HEADER if dense else PALETTE_HEADER
        rows = weight_rows(ordered(self.palettized + self.decompressed, sort), labels, dense=dense)
        skipped = [(labels[w.id], w.reason, format_bytes(w.bytes_before)) for w in ordered(self.skipped, "bytes")]
        tables = [
            Table("Weights", header, rows, numbers=frozenset((4, 5, 6))),
            Table("Left alone", ("weight", "why", "size"), skipped, numbers=frozenset((2,)), folded=True),
            Table("Moved", ("op", "what"), [(m.op_name or m.function, m.what) for m in self.moved], folded=True),
        ]
        route, sizes, counts, *others = self._totals().splitlines()
        tiles = [Tile("Size", *sizes.split(", ", 1)), Tile("Constants", *counts.split(", ", 1))]
        noted = [f"{labels[w.id]}: {note}" for w in self.weights for note in w.notes]
        outputs = [] if self.check is None else [outputs_section(self.check.outputs)]
        notes = [route, *snr_lines(self.palettized, labels), *others, *self.notes, *noted]
        return table_page(base_name(self.source), tiles, notes, tables, outputs)

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
        left = self.skipped
        others = ""
        if self.action == PALETTIZED:
            left = [weight for weight in left if weight.is_float]
            other_types = len(self.skipped) - len(left)
            others = f", {other_types} of other types than fp16 and fp32" if other_types else ""
            others += f", {self.small} at or below the threshold"
        changed = self.palettized + self.decompressed
        lines = [
            f"{self.source} → {self.destination or ('(dry run)' if self.dry_run else 'a new one')}",
            f"{format_bytes(self.bytes_before)} → {'about ' if self.dry_run else ''}{format_bytes(self.bytes_after)}"
            + _times(self.bytes_before, self.bytes_after)
            + ("" if self.dry_run else f", in {self.seconds:.2f} s")
            + (", verified" if self.verified else ""),
            f"{format_count(len(changed), 'constant')} {done}, {len(left)} left alone{others}",
        ]
        if self.small_nbytes > _MUCH * self.bytes_before:
            lines.append(
                f"at or below it are {format_bytes(self.small_nbytes)} of weights, "
                f"{100 * self.small_nbytes / self.bytes_before:.0f} % of the package: "
                "--weight-threshold 0 (weight_threshold=0) takes them too"
            )
        if self.action == PALETTIZED and not changed:
            lines.append(self._idle())
        if self.action == DECOMPRESSED and not self.weights:
            lines.append("Nothing is compressed in it: the new package holds what the old one does.")
        if self.dropped_records:
            lines.append(f"{format_count(self.dropped_records, 'record')} that nothing pointed at dropped")
        return "\n".join(lines)

    def _idle(self) -> str:
        """Of a run that palettizes nothing: why, in one line."""
        told = Counter(reason for reason, _ in folded_reasons((weight.reason, "") for weight in self.skipped))
        why = [f"{reason} ({format_count(count, 'constant')})" for reason, count in told.most_common(_MOST_REASONS)]
        kept = [] if self.dry_run else ["the new package has the same weights"]
        return f"nothing to palettize: {'; '.join([*(why or ['no constant is above the threshold']), *kept])}"

    def _next(self) -> str:
        """The command that tells what palettes did to outputs, of all functions, where nothing told it yet."""
        if self.destination is None or self.dry_run or self.check is not None or not self.palettized:
            return ""
        functions = ["--function", "all"] if len({weight.function for weight in self.weights}) > 1 else []
        command = shlex.join(["mil-palettize", "compare", self.source, self.destination, *functions])
        return f"next: {command}\n      (with --inputs X: on samples of yours)"


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


def _moved_lines(moved: list[Moved], width: int) -> list[str]:
    """Functions first, then ops by what was changed in them."""
    functions = indented_lines((f"{m.function}: {m.what}" for m in moved if not m.op_name), width)
    ops = ((f"{m.op_type}: {m.what}", f"{m.function}/{m.op_name}") for m in moved if m.op_name)
    return functions + grouped_lines(ops, width)


def _titled(title: str, lines: list[str]) -> str:
    return "\n".join([f"{title}:", *lines]) if lines else ""
