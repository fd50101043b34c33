"""What a palette did to a model's outputs: figures for each output, op and weight, and how they are shown."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mil_palettize.reports.attribution import Attribution
from mil_palettize.reports.class_figures import finite
from mil_palettize.reports.compared_parts import OpComparison, OutputComparison, WeightComparison
from mil_palettize.reports.gate import Gate
from mil_palettize.reports.greedy_figures import GreedyFigures
from mil_palettize.reports.tables import format_table, indented_lines
from mil_palettize.text import format_bytes, format_count, printable

_WORST = 10  # ops and weights that are listed


@dataclass
class ModelComparison:
    """Two models on the same inputs. ``inputs``: where these came from, in words. ``bytes_before``: 0
    where the original is no package. ``ops``, ``attributions``: empty unless asked for;
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
    greedy: GreedyFigures | None = None
    attributions: list[Attribution] = field(default_factory=list)
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

    def failures(
        self,
        fail_below: float | None = None,
        *,
        max_disagreement: float | None = None,
        max_kl: float | None = None,
        max_accuracy_loss: float | None = None,
        min_iou: float | None = None,
        allow_degenerate: bool = False,
    ) -> list[str]:
        """Why this comparison is not good enough, a line for each output: an SNR below ``fail_below`` decibels, a
        larger share (0 to 1) of other labels or classes than ``max_disagreement``, a larger mean KL divergence than
        ``max_kl`` nats, a larger loss of accuracy (0 to 1) than ``max_accuracy_loss``, a smaller mean
        IoU (0 to 1) of a mask than ``min_iou``, or nothing to compare, unless
        ``allow_degenerate``. Empty where it passes."""
        gate = Gate(fail_below, max_disagreement, max_kl, max_accuracy_loss, min_iou, allow_degenerate)
        return gate.failures(self.outputs)

    def to_dict(self) -> dict[str, Any]:
        """Plain types only; infinite figures are None."""
        return {
            "original": self.original,
            "palettized": self.palettized,
            "inputs": self.inputs,
            "samples": self.samples,
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "snr_db": finite(self.snr_db),
            "outputs": [output.to_dict() for output in self.outputs],
            "weights": [
                {"name": w.name, "shape": list(w.shape), "bits": w.bits, "bytes_before": w.bytes_before,
                 "bytes_after": w.bytes_after, "snr_db": finite(w.snr_db)}
                for w in self.weights
            ],
            "ops": [{"name": op.name, "type": op.kind, **op.figures.to_dict()} for op in self.ops],
            "unmatched_ops": self.unmatched,
            "greedy": None if self.greedy is None else self.greedy.to_dict(),
            "attributions": [found.to_dict() for found in self.attributions],
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
        for found in self.attributions:
            lines += ["", *_attribution_lines(found, width)]
        lines += ["", *indented_lines(self.notes, width)] if self.notes else []
        return printable("\n".join(lines)) + "\n"

    def outputs_text(self, width: int) -> str:
        """The inputs, the table of outputs, and what warns of it."""
        told = f"{format_count(self.samples, 'sample')}: {self.inputs}; {self.precision} by {self.runtime}"
        rows = [_output_row(output) for output in self.outputs]
        warnings = indented_lines((f"warning: {warning}" for warning in self.warnings), width)
        table = format_table(_OUTPUT_HEADER, rows, width, right=1)
        lines = [told, table, *_classes_lines(self.outputs, width), *_steps_lines(self.outputs, width)]
        lines += [] if self.greedy is None else indented_lines([self.greedy.sentence()], width)
        return "\n".join([*lines, *warnings])


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


def _classes_lines(outputs: list[OutputComparison], width: int) -> Iterator[str]:
    for output in outputs:
        if output.classes is not None:
            facts = ", ".join(f"{what} {figure}" for what, figure in output.classes.facts())
            sentence = output.classes.sentence(output.name)
            told = f"{output.name}, {format_count(output.classes.rows, 'row')} of classes: {facts}."
            yield from indented_lines([told, sentence] if sentence else [told], width)
        if output.mean_iou is not None:
            yield from indented_lines([f"{output.name}: mean IoU of its classes {output.mean_iou:.2%}."], width)


def _steps_lines(outputs: list[OutputComparison], width: int) -> Iterator[str]:
    """Of sequences: the first call, the middle one, the last and the worst."""
    rows = [[o.name, *steps_row(o)] for o in outputs if o.steps and o.figures is not None]
    if rows:
        yield ""
        yield format_table(("SNR dB by call", *STEPS), rows, width, right=1)


def _ops_table(ops: list[OpComparison], width: int) -> str:
    rows = [[op.name, op.kind, decibels_text(op.figures.snr_db), f"{op.figures.max_abs:.3g}"] for op in ops]
    return format_table(("op", "type", "SNR dB", "max difference"), rows, width, right=2)


def _weights_table(weights: list[WeightComparison], width: int) -> str:
    rows = [[w.name, "×".join(map(str, w.shape)), f"{w.bits:.2f}", decibels_text(w.snr_db)] for w in weights]
    return format_table(("weight", "shape", "bits", "SNR dB"), rows, width, right=2)


def _attribution_lines(found: Attribution, width: int) -> list[str]:
    rows = [
        [one.name, decibels_text(one.snr_db), f"{share:.1%}", f"{total:.1%}",
         "" if one.snr_db_without is None else decibels_text(one.snr_db_without)]
        for one, share, total in found.rows[:_WORST]
    ]  # fmt: skip
    whose = f" of {found.function}" if found.function else ""
    heading = f"Where the outputs' error{whose} comes from, of {format_count(len(found.losses), 'weight')}:"
    table = format_table(("weight", "SNR dB alone", "share", "so far", "without"), rows, width, right=1)
    return [heading, table, *indented_lines([found.sentence()], width)]


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


STEPS = ("first", "middle", "last", "worst")  # calls of a sequence that are shown


def steps_row(output: OutputComparison) -> list[str]:
    """The SNR of :data:`STEPS`, the last of them with its number."""
    values = [step.snr_db for step in output.steps]
    worst = min(range(len(values)), key=lambda i: loss(values[i], unknown=math.inf))
    shown = [decibels_text(values[i]) for i in (0, len(values) // 2, len(values) - 1)]
    return [*shown, f"{decibels_text(values[worst])} at {worst + 1}"]
