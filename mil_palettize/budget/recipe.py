"""A plan as people keep it: coremltools' own YAML with comments, a table, JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from mil_palettize.budget.left_alone import Left, by_reason
from mil_palettize.budget.ranks import rank_correlation
from mil_palettize.budget.trials import Trial
from mil_palettize.reports.curve import Point, curve_svg
from mil_palettize.reports.page.frame import base_name, section
from mil_palettize.reports.page.notebook import framed
from mil_palettize.reports.page.table_page import Table, Tile, table_page
from mil_palettize.reports.tables import format_table, grouped_lines
from mil_palettize.reports.weight_rows import folded_reasons
from mil_palettize.request.normalised import Requests
from mil_palettize.request.palette_request import palette_request
from mil_palettize.text import format_bytes, format_count, format_some, printable

if TYPE_CHECKING:
    from mil_palettize.request.config import OptimizationConfig

_TOLD = 3  # constants that a note names
_COLUMNS = ("weight", "shape", "palette", "before", "after", "error")
_LEGEND = (
    '<p class="muted">The line: the best plan of each size. Dots: uniform bits, one table for each weight, and what '
    "was chosen. Higher is better: errors are as they are told beforehand.</p>"
)


@dataclass(frozen=True)
class Chosen:
    """What a weight gets. ``names``: entries of the config; ``options``: of its entry, None for "leave alone";
    ``bytes_before``, ``bytes_after``: stored, tables and scales included; ``error``: as the notes of
    the recipe say; ``reason``: why it is left alone, "" where it is not, or nobody knows."""

    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    options: Mapping[str, Any] | None
    bytes_before: int
    bytes_after: int
    error: float
    reason: str = ""

    @property
    def palette(self) -> str:
        """In words."""
        if self.options is None:
            return "left alone"
        return str(palette_request(self.options)).removeprefix("kmeans ")

    def row(self) -> list[str]:
        """Of a table."""
        return [
            printable(", ".join(self.names)),
            "×".join(map(str, self.shape)) + f" {self.dtype}",
            self.palette,
            format_bytes(self.bytes_before),
            format_bytes(self.bytes_after),
            f"{self.error:.2g}",
        ]


@dataclass(frozen=True)
class Recipe:
    """A palette for every weight, within a budget.

    ``nbytes``: of the package that ``palettize_package`` writes with it, to the byte, where ``target`` is the same;
    ``bytes_before``: as it is. ``gap``: how far the sum of errors may lie above the least possible one, relative to it,
    None where it was not chosen so (uniform bits, imported ones); ``uniform``: the granularity that all weights have,
    "" for mixed bits;
    ``smallest``: bytes of the smallest package that was possible. ``curve``: other budgets, and uniform palettes.
    ``notes``: what a person should know. ``left``: constants that can have no palette, as ``function/name``, with the
    reason and their bytes. ``trials``: plans that were written and measured, in the order of
    trying, () where none was. ``weight_ranks``: of samples, what of each measure is told of weights alone and cheaply:
    the rank correlation over the weights with the noise at the outputs that a palette in one of them made.

    >>> recipe = plan_mixed_bits("fixtures/conv_fp16_ios18.mlpackage", Budget(bits_per_weight=5), measure=False)
    >>> recipe.nbytes < recipe.bytes_before, "config_type: OpPalettizerConfig" in recipe.to_yaml()
    (True, True)
    """

    source: str
    target: str | None
    chosen: tuple[Chosen, ...]
    nbytes: int
    bytes_before: int
    smallest: int
    gap: float | None
    curve: tuple[Point, ...] = ()
    notes: tuple[str, ...] = ()
    trials: tuple[Trial, ...] = ()
    uniform: str = ""
    weight_ranks: Mapping[str, float | None] = field(default_factory=dict)
    left: tuple[Left, ...] = ()

    @property
    def bits_per_weight(self) -> float:
        """Stored for an element of the weights that could be palettized."""
        elements = sum(math.prod(one.shape) for one in self.chosen)
        return 8.0 * sum(one.bytes_after for one in self.chosen) / elements if elements else 0.0

    @property
    def error(self) -> float:
        """The sum of the weights' errors."""
        return sum(one.error for one in self.chosen)

    @property
    def _dense(self) -> list[Chosen]:
        """That are left alone, with reasons."""
        return [one for one in self.chosen if one.options is None and one.reason]

    @property
    def point(self) -> Point:
        """Where it lies on the curve."""
        return Point(self.nbytes, self.error, "chosen")

    def requests(self) -> Requests:
        """As ``palettize_package`` takes it."""
        entries = {
            name: None if one.options is None else palette_request(one.options)
            for one in self.chosen
            for name in one.names
        }
        reasons = {key: reason for key, reason, _ in self.left}
        for one in self.chosen:
            reasons |= dict.fromkeys(one.names if one.reason else (), f"left alone by the plan: {one.reason}")
        return Requests(None, {}, entries, planned=reasons)

    @property
    def left_notes(self) -> list[str]:
        """Of the constants that can have no palette, those with the same reason together."""
        return [
            f"{format_count(len(keys), 'constant')} of {size} left alone: {reason}: {format_some(keys, _TOLD)}"
            for reason, keys, size in by_reason(self.left)
        ]

    @property
    def config(self) -> OptimizationConfig:
        """As coremltools has it. Importing its classes takes seconds."""
        from mil_palettize.request.config import OptimizationConfig

        return OptimizationConfig.from_dict(self.to_dict())

    def told(self, nbytes: int | None) -> list[str]:
        """For the report of a package written with it, of ``nbytes``, None where none was written."""
        if not self.chosen:
            return ["planned: nothing, as no weight can get a palette", *self.notes]
        foretold = f"{self.point.told} told beforehand" if self.error > 0 else "no error"
        planned = (
            f"planned: {self.nbytes:,} bytes, {self.bits_per_weight:.2f} bits per weight, {foretold}; the smallest "
            f"package possible had {self.smallest:,}"
        )
        if nbytes is None or nbytes == self.nbytes:
            return [planned, *self.notes]
        return [f"{planned}; it has {nbytes - self.nbytes:+,}, as it was written in another way than planned for"]

    def to_dict(self) -> dict[str, Any]:
        """The nested mapping that ``OptimizationConfig.from_dict`` of coremltools takes."""
        entries = {
            name: None if one.options is None else {"mode": "kmeans", **one.options}
            for one in self.chosen
            for name in one.names
        }
        return {"config_type": "OpPalettizerConfig", "global_config": None, "op_name_configs": entries}

    def to_yaml(self) -> str:
        """The same as text, with what each weight costs and loses in comments."""
        lines = [
            f"# {line}"
            for line in (
                f"{self.source}: {self.bytes_before:,} bytes, with this recipe {self.nbytes:,},",
                f"{self.bits_per_weight:.2f} bits per weight where there can be palettes; error told beforehand "
                f"{self.error:.3g} ({self.point.told})",
                *([] if self.target is None else [f"for --target {self.target}"]),
                *self.notes,
                *self.left_notes,
            )
        ]
        lines += ["config_type: OpPalettizerConfig", "global_config: null", "op_name_configs:"]
        for one in self.chosen:
            shape = "×".join(map(str, one.shape))
            lines.append(
                f"  # {shape} {one.dtype}: {one.bytes_before:,} → {one.bytes_after:,} bytes, error {one.error:.3g}"
                + (f"; {one.reason}" if one.reason else "")
            )
            for name in one.names:
                options = None if one.options is None else {"mode": "kmeans", **one.options}
                lines.append(f"  {json.dumps(name)}: {json.dumps(options)}")
        return "\n".join(printable(line.replace("\n", " ")) for line in lines) + "\n"

    def table(self, width: int = 110) -> str:
        """A line for each weight."""
        return format_table(_COLUMNS, [one.row() for one in self.chosen], width, right=3)

    def to_text(self, width: int = 110) -> str:
        """Totals, the table and the notes."""
        totals = [
            f"{self.source}: {format_bytes(self.bytes_before)} → {format_bytes(self.nbytes)} ({self.nbytes:,} bytes), "
            f"{self.bits_per_weight:.2f} bits per weight",
            f"{format_count(len(self.chosen), 'weight')}, error told beforehand {self.error:.3g} ({self.point.told}), "
            f"{self.kind}",
        ]
        measured = [f"measured: {trial}" for trial in self.trials]
        left = grouped_lines(folded_reasons((one.reason, ", ".join(one.names)) for one in self._dense), width)
        blocks = ["\n".join(totals), self.table(width), "\n".join(["left alone:", *left] if left else [])]
        blocks += ["\n".join(measured), "\n".join([*self.notes, *self.left_notes])]
        return printable("\n\n".join(block for block in blocks if block)) + "\n"

    def to_html(self) -> str:
        """A page that needs nothing else, to be saved as UTF-8: the curve with the chosen point, what was measured, and
        every weight."""
        tiles = [
            Tile("Size", format_bytes(self.nbytes), f"of {format_bytes(self.bytes_before)}"),
            Tile("Bits per weight", f"{self.bits_per_weight:.2f}", format_count(len(self.chosen), "weight")),
            Tile("Error told beforehand", self.point.told, self.kind),
            Tile("Smallest possible", format_bytes(self.smallest), "of what may be chosen"),
        ]
        figure = f'<figure style="max-width:60rem">{curve_svg(self.curve, self.point)}</figure>'
        curve = section("Size against error", _LEGEND + figure)
        left = [(", ".join(one.names), one.reason, format_bytes(one.bytes_before)) for one in self._dense]
        left += [(key, reason, format_bytes(nbytes)) for key, reason, nbytes in self.left]
        tried = [(trial.kind, f"{trial.nbytes:,}", trial.quality) for trial in self.trials]
        tables = [
            Table("Measured", ("plan", "bytes", "at the outputs"), tried, frozenset({1})),
            Table("Weights", _COLUMNS, [one.row() for one in self.chosen], frozenset({3, 4, 5})),
            Table("Left alone", ("weight", "why", "size"), left, frozenset({2}), folded=True),
        ]
        return table_page(f"{base_name(self.source)}: {format_bytes(self.nbytes)}", tiles, self.notes, tables, [curve])

    def _repr_html_(self) -> str:
        """In a notebook."""
        return framed(self.to_html())

    @property
    def kind(self) -> str:
        """How it was chosen, in words."""
        if self.gap is not None and math.isinf(self.gap):
            return "the smallest that there is"
        if self.gap is not None:
            return f"at most {self.gap:.2g} of it above the least possible" if self.gap else "no plan as small has less"
        return f"uniform {self.uniform}" if self.uniform else "as it was imported"

    def to_json(self) -> str:
        """All figures."""
        data = {name: value for name, value in asdict(self).items() if name != "curve"}
        data |= {"bits_per_weight": self.bits_per_weight, "error": self.error}
        data["gap"] = self.gap if self.gap is not None and math.isfinite(self.gap) else None
        data["trials"] = [trial.to_dict() for trial in self.trials]
        data["rank_correlation"] = rank_correlation([t.error for t in self.trials], [-t.snr_db for t in self.trials])
        data["curve"] = [asdict(point) for point in self.curve]
        return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
