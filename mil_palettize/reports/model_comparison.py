"""What a palette did to a model's outputs: figures for each output, op and weight, and how they are shown."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mil_palettize.reports.tables import format_table, indented_lines
from mil_palettize.text import format_bytes, format_count, printable

_WORST = 10  # ops and weights that are listed


@dataclass(frozen=True)
class Distance:
    """How far values are from what they were, over all elements of all samples.

    ``snr_db``: 10·log10(Σx² / Σ(x-y)²), infinite where nothing differs. ``psnr_db``: the same with the square of the
    range of x, times the elements, for Σx². ``cosine`` of the angle between them. ``max_abs``: the largest difference.

    ``elements`` are those that are compared. The others: ``non_finite`` are NaN or infinite now and were not: then the
    SNR is -infinite, and the other figures say nothing either. ``original_non_finite`` were NaN or infinite before,
    which no palette did; ``original_changed`` of these are something else now. ``huge`` are from 1e30 on and the same
    in both, as in a mask. Where nothing is left to compare, all figures are NaN. ``constant``: what all elements are in
    both, None where they are not.
    """

    elements: int
    snr_db: float
    psnr_db: float
    cosine: float
    max_abs: float
    non_finite: int = 0
    original_non_finite: int = 0
    original_changed: int = 0
    huge: int = 0
    constant: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Infinite figures are None, with ``equal`` true."""
        plain = {name: _finite(value) for name, value in dataclasses.asdict(self).items()}
        return plain | {"equal": self.equal}

    @property
    def equal(self) -> bool:
        return self.max_abs == 0 and self.snr_db > 0 and not math.isfinite(self.snr_db)

    @property
    def total(self) -> int:
        """All elements, compared or not."""
        return self.elements + self.non_finite + self.original_non_finite + self.huge

    @property
    def nothing(self) -> str:
        """Why these figures say nothing of a palette, "" where they do."""
        if self.non_finite:
            return ""
        if not self.total:
            return "it has no values"
        if not self.elements and not self.original_non_finite:
            return "all values are as large as in a mask"
        if 2 * self.original_non_finite > self.total:
            return "most values of the original are not finite" if self.elements else "the original is nowhere finite"
        return "" if self.constant is None else f"every value is {self.constant:g} in both"


@dataclass(frozen=True)
class OutputComparison:
    """An output. ``figures``: None for text and dictionaries. ``worst_snr_db``: of the sample that lost most.
    ``agreement``: share of samples with the same label (a classifier's label, and what is most probable), of integer
    outputs the share of equal elements; None for others. ``nothing``: why there is nothing to compare, though nothing
    differs, "" where there is. ``first_non_finite``: the ops of the original that first gave NaN or infinity, in words,
    where it has such values."""

    name: str
    shape: tuple[int, ...]
    figures: Distance | None
    worst_snr_db: float | None = None
    agreement: float | None = None
    nothing: str = ""
    first_non_finite: str = ""

    @property
    def snr_db(self) -> float:
        """-inf where something is not finite any more, where labels differ and nothing else is known, and where there
        is nothing to compare."""
        if self.nothing:
            return -math.inf
        if self.figures is None:
            return math.inf if self.agreement == 1 else -math.inf
        return self.figures.snr_db


@dataclass(frozen=True)
class OpComparison:
    """The result of an op that both models have, in the order it is made. ``kind``: its type."""

    name: str
    kind: str
    figures: Distance


@dataclass(frozen=True)
class WeightComparison:
    """A weight as stored in both. ``bytes_before``, ``bytes_after``: of all its parts. ``counts`` of the histogram of
    the original over ``edges`` (one more), and ``entries``: the distinct values it has now, where these are few; empty
    where they were not asked for."""

    name: str
    shape: tuple[int, ...]
    bytes_before: int
    bytes_after: int
    snr_db: float
    edges: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    entries: tuple[float, ...] = ()

    @property
    def bits(self) -> float:
        """Stored now, per element, tables included."""
        return self.bytes_after * 8 / max(1, math.prod(self.shape))

    @property
    def bits_before(self) -> float:
        return self.bytes_before * 8 / max(1, math.prod(self.shape))


@dataclass
class ModelComparison:
    """Two models on the same inputs. ``inputs``: where these came from, in words. ``bytes_before``: 0
    where the original is no package. ``ops``: empty unless asked for;
    ``unmatched``: ops of either that the other has not."""

    original: str
    palettized: str
    inputs: str
    samples: int
    bytes_before: int
    bytes_after: int
    outputs: list[OutputComparison]
    weights: list[WeightComparison] = field(default_factory=list)
    ops: list[OpComparison] = field(default_factory=list)
    unmatched: int = 0
    precision: str = "fp32"
    runtime: str = "torch"
    notes: list[str] = field(default_factory=list)

    @property
    def snr_db(self) -> float:
        """Of the worst output."""
        return min((output.snr_db for output in self.outputs), default=math.inf)

    @property
    def palettized_weights(self) -> list[WeightComparison]:
        """Those that are not what they were."""
        return [w for w in self.weights if w.bytes_after != w.bytes_before or w.snr_db < math.inf]

    @property
    def warnings(self) -> list[str]:
        """What keeps the figures from saying what a palette did: values that are not finite, nothing to compare."""
        fp16 = " (fp16 ends at 65504: --precision fp32 tells whether that is why)" if self.precision == "fp16" else ""
        return [sentence for output in self.outputs for sentence in _warnings(output, fp16)]

    def failures(self, fail_below: float, *, allow_degenerate: bool = False) -> list[str]:
        """Why this comparison is not good enough, a line for each output: an SNR below ``fail_below`` decibels, or
        nothing to compare, unless ``allow_degenerate``. Empty where it passes."""
        if not self.outputs and not allow_degenerate:
            return ["there are no outputs, and nothing to compare"]
        found = []
        for output in self.outputs:
            if output.nothing:
                found += [] if allow_degenerate else [f"output {output.name!r}: nothing to compare, {output.nothing}"]
            elif not output.snr_db >= fail_below:
                told = "not finite or another label" if output.snr_db == -math.inf else f"{output.snr_db:.1f} dB"
                found.append(f"output {output.name!r}: {told}, below {fail_below:g} dB")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain types only; infinite figures are None."""
        return {
            "original": self.original,
            "palettized": self.palettized,
            "inputs": self.inputs,
            "samples": self.samples,
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "snr_db": _finite(self.snr_db),
            "outputs": [_output_dict(output) for output in self.outputs],
            "weights": [
                {"name": w.name, "shape": list(w.shape), "bits": w.bits, "bytes_before": w.bytes_before,
                 "bytes_after": w.bytes_after, "snr_db": _finite(w.snr_db)}
                for w in self.weights
            ],
            "ops": [{"name": op.name, "type": op.kind, **op.figures.to_dict()} for op in self.ops],
            "unmatched_ops": self.unmatched,
            "precision": self.precision,
            "runtime": self.runtime,
            "warnings": self.warnings,
            "notes": self.notes,
        }  # fmt: skip

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)

    def to_text(self, width: int = 110) -> str:
        """For a terminal of ``width`` columns."""
        lines = [
            f"{self.original} → {self.palettized}",
            " → ".join(format_bytes(size) for size in (self.bytes_before, self.bytes_after) if size),
            "",
            self.outputs_text(width),
        ]
        if self.ops:
            worst = sorted(self.ops, key=lambda op: loss(op.figures.snr_db, unknown=math.inf))[:_WORST]
            lines += ["", f"Ops that lost most, of {len(self.ops)} that both models have:", _ops_table(worst, width)]
        changed = sorted(self.palettized_weights, key=lambda w: loss(w.snr_db))
        if changed:
            lines += ["", f"Weights that lost most, of {len(changed)}:", _weights_table(changed[:_WORST], width)]
        lines += ["", *indented_lines(self.notes, width)] if self.notes else []
        return printable("\n".join(lines)) + "\n"

    def outputs_text(self, width: int) -> str:
        """The inputs, the table of outputs, and what warns of it."""
        told = f"{format_count(self.samples, 'sample')}: {self.inputs}; {self.precision} by {self.runtime}"
        rows = [_output_row(output) for output in self.outputs]
        warnings = indented_lines((f"warning: {warning}" for warning in self.warnings), width)
        return "\n".join([told, format_table(_OUTPUT_HEADER, rows, width, right=1), *warnings])


_OUTPUT_HEADER = ("output", "SNR dB", "worst sample", "PSNR dB", "cosine", "max difference", "agreement")


def _output_row(output: OutputComparison) -> list[str]:
    if output.nothing:
        return [output.name, "nothing", *[""] * 5]
    agreement = "" if output.agreement is None else f"{output.agreement:.2%}"
    if output.figures is None:
        return [output.name, *[""] * 5, agreement]
    f = output.figures
    worst = "" if output.worst_snr_db is None else decibels_text(output.worst_snr_db)
    distances = ["", ""] if f.non_finite else [f"{f.cosine:.6f}", f"{f.max_abs:.3g}"]
    figures = [decibels_text(output.snr_db), worst, decibels_text(f.psnr_db), *distances]
    return [output.name, *figures, agreement]


def _ops_table(ops: list[OpComparison], width: int) -> str:
    rows = [[op.name, op.kind, decibels_text(op.figures.snr_db), f"{op.figures.max_abs:.3g}"] for op in ops]
    return format_table(("op", "type", "SNR dB", "max difference"), rows, width, right=2)


def _weights_table(weights: list[WeightComparison], width: int) -> str:
    rows = [[w.name, "×".join(map(str, w.shape)), f"{w.bits:.2f}", decibels_text(w.snr_db)] for w in weights]
    return format_table(("weight", "shape", "bits", "SNR dB"), rows, width, right=2)


def _warnings(output: OutputComparison, fp16: str) -> Iterator[str]:
    name, figures = f"output {output.name!r}", output.figures
    if figures is not None and figures.original_non_finite:
        first = f", {output.first_non_finite}" if output.first_non_finite else ""
        changed = f"; {figures.original_changed} of them are something else now" if figures.original_changed else ""
        many = f"{figures.original_non_finite} of {figures.total} values"
        yield (
            f"{name}: {many} of the original are not finite{first}{fp16}; no palette did that, and they are left "
            f"out{changed}"
        )
    if figures is not None and figures.non_finite:
        yield f"{name}: {figures.non_finite} of {figures.total} values are not finite, which they are in the original"
    if figures is not None and figures.huge:
        yield f"{name}: {figures.huge} of {figures.total} values are huge (from 1e30 on) and equal; they are left out"
    if output.nothing:
        yield f"{name}: nothing to compare, {output.nothing}"


def loss(snr_db: float, unknown: float = -math.inf) -> float:
    """To sort by, what lost most first: NaN has no place of its own and takes that of ``unknown``."""
    return unknown if math.isnan(snr_db) else snr_db


def decibels_text(value: float) -> str:
    """``31.4``; "equal" where nothing differs, "lost" where something is not finite any more, "nothing" (NaN) where
    nothing could be compared."""
    if math.isfinite(value):
        return f"{value:.1f}"
    if math.isnan(value):
        return "nothing"
    return "equal" if value > 0 else "lost"


def _output_dict(output: OutputComparison) -> dict[str, Any]:
    figures = {} if output.figures is None else output.figures.to_dict()
    return {
        "name": output.name,
        "shape": list(output.shape),
        **figures,
        **({"equal": False} if output.nothing and output.figures else {}),
        "nothing_to_compare": output.nothing or None,
        "first_non_finite": output.first_non_finite or None,
        "worst_snr_db": None if output.worst_snr_db is None else _finite(output.worst_snr_db),
        "agreement": output.agreement,
    }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
