"""A comparison of two models, and how it is shown: as text, as a page, in a notebook."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from mil_palettize.reports.attribution import Attribution
from mil_palettize.reports.compared_models import ComparedModels
from mil_palettize.reports.compared_parts import OpComparison, OutputComparison, WeightComparison
from mil_palettize.reports.page.document import page
from mil_palettize.reports.page.notebook import framed
from mil_palettize.reports.shown_figures import STEPS, decibels_text, loss, steps_row
from mil_palettize.reports.tables import format_table, indented_lines
from mil_palettize.text import format_bytes, format_count, printable

_WORST = 10  # ops and weights that are listed


@dataclass
class ModelComparison(ComparedModels):
    """What ``mil_palettize.compare`` gives.

    >>> same = "fixtures/conv_fp16_ios18.mlpackage"
    >>> comparison = compare(same, same, random=1)
    >>> [output.name for output in comparison.outputs], comparison.failures(30)
    (['scores'], [])
    """

    def to_html(self, command: str = "") -> str:
        """A page that needs nothing else, to be saved as UTF-8. ``command``: that makes it again, which it shows, else
        the call of Python."""
        return page(self, command or self.call)

    def _repr_html_(self) -> str:
        """In a notebook."""
        return framed(self.to_html())

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
        sentences = [one.sentence() for one in (self.greedy, self.detected) if one is not None]
        lines += indented_lines(sentences, width)
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
