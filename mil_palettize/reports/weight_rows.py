"""Weights of a report as rows of tables, which its text and its page show."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from mil_palettize.program.weight import WeightId
from mil_palettize.reports.decibels import snr_text
from mil_palettize.reports.orders import Order
from mil_palettize.reports.tables import format_table
from mil_palettize.reports.weight_report import WeightReport
from mil_palettize.text import format_bytes, printable, shorten

LARGEST = 10  # that are shown where not all are
DENSE_HEADER = ("weight", "shape", "read by", "was", "before", "after")
PALETTE_HEADER = ("weight", "shape", "read by", "palette", "before", "after", "SNR dB")
_WIDEST_FORM = 40
_NUMBER = re.compile(r"(?<![\w'.])\d+(?:,\d{3})*(?:\.\d+)?(?![\w'])")
Labels = Mapping[WeightId, str]


def ordered(weights: Sequence[WeightReport], sort: Order) -> list[WeightReport]:
    """The largest, the worst SNR, or the first name in front."""
    if sort == "name":
        return sorted(weights, key=lambda w: (w.function, w.name))
    if sort == "snr":
        return sorted(weights, key=lambda w: (math.inf if w.snr_db is None else w.snr_db, -w.bytes_before))
    return sorted(weights, key=lambda w: -w.bytes_before)


def weight_rows(weights: Iterable[WeightReport], labels: Labels, *, dense: bool) -> list[tuple[str, ...]]:
    """Of palettes, or of what is ``dense`` again."""
    if dense:
        return [_row(weight, labels[weight.id], shorten(weight.mode or "", _WIDEST_FORM)) for weight in weights]
    return [(*_row(w, labels[w.id], _palette_words(w)), snr_text(w.snr_db)) for w in weights]


def weight_table(weights: Sequence[WeightReport], labels: Labels, width: int, *, dense: bool, every: bool) -> str:
    """The first of ``weights``, or ``every`` one, and how many are not shown."""
    shown = weights if every else weights[:LARGEST]
    if not shown:
        return ""
    header = DENSE_HEADER if dense else PALETTE_HEADER
    table = format_table(header, weight_rows(shown, labels, dense=dense), width, right=4)
    more = len(weights) - len(shown)
    return table + (f"\n… and {more} more (--all lists them)" if more else "")


def snr_lines(weights: Iterable[WeightReport], labels: Labels) -> list[str]:
    """A line with the mean and the worst SNR of the palettes that lose something, where any is known."""
    known = [(w.snr_db, labels[w.id]) for w in weights if w.snr_db is not None and math.isfinite(w.snr_db)]
    if not known:
        return []
    worst, name = min(known)
    mean = sum(db for db, _ in known) / len(known)
    return [f"SNR of weights: {mean:.1f} dB on average, {worst:.1f} the worst ({name})"]


def folded_reasons(reasons: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """(reason, weight) of each; reasons that only differ in numbers are one, which has their range in their place."""
    pairs = list(reasons)
    alike: dict[str, list[str]] = {}
    for reason, _ in pairs:
        alike.setdefault(_without_numbers(reason), []).append(reason)
    told = {plain: _folded(of) for plain, of in alike.items()}
    return [(told[_without_numbers(reason)], weight) for reason, weight in pairs]


def _without_numbers(reason: str) -> str:
    return _NUMBER.sub("…", reason)


def _folded(reasons: Sequence[str]) -> str:
    """One sentence for ``reasons``, which only differ in numbers."""
    numbers = iter(zip(*(_NUMBER.findall(reason) for reason in reasons), strict=True))
    return _NUMBER.sub(lambda _: _spread(next(numbers)), reasons[0])


def _spread(numbers: Iterable[str]) -> str:
    """``7``, ``0 or 1``, ``1 to 300``."""
    found = sorted(set(numbers), key=lambda number: float(number.replace(",", "")))
    return " or ".join(found) if len(found) < 3 else f"{found[0]} to {found[-1]}"


def _row(weight: WeightReport, label: str, form: str) -> tuple[str, ...]:
    return (
        printable(label),
        "×".join(map(str, weight.shape)) + f" {weight.dtype}",
        shorten(printable(", ".join(dict.fromkeys(op for op, _ in weight.consumers))), 18),
        form,
        format_bytes(weight.bytes_before),
        format_bytes(weight.bytes_after) if weight.bytes_after is not None else "?",
    )


def _palette_words(weight: WeightReport) -> str:
    bits = f" {weight.nbits} bit" if weight.nbits else ""
    vectors = f" v{weight.cluster_dim}" if (weight.cluster_dim or 1) > 1 else ""
    groups = f" g{weight.group_size}" if weight.group_size else ""
    axis = f" axis {weight.channel_axis}" if weight.channel_axis is not None else ""
    scale = " ×scale" if weight.scale_axis is not None else ""
    table = f" {weight.lut_dtype}" if weight.lut_dtype else ""
    joint = f", {weight.joint}" if weight.joint else ""
    return f"{weight.mode}{bits}{vectors}{groups}{axis}{table}{scale}{joint}"
