"""What a comparison has to be to pass, and why it does not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mil_palettize.reports.compared_parts import OutputComparison


@dataclass(frozen=True)
class Gate:
    """Each limit is None where it is not asked for. ``fail_below``: decibels of SNR. ``max_disagreement``: share of
    samples, rows or elements with another label. ``max_kl``: mean of nats. ``max_accuracy_loss``: accuracy before less
    that after. ``max_perplexity_rise``: perplexity after over that before, less 1. ``min_top_5``: share of the
    original's five most probable classes. ``min_iou``: mean of the classes of a mask. ``allow_degenerate``: let nothing
    to compare pass."""

    fail_below: float | None = None
    max_disagreement: float | None = None
    max_kl: float | None = None
    max_accuracy_loss: float | None = None
    max_perplexity_rise: float | None = None
    min_top_5: float | None = None
    min_iou: float | None = None
    allow_degenerate: bool = False

    def failures(self, outputs: Sequence[OutputComparison]) -> list[str]:
        """A line for each output and limit that does not hold, and for a limit that no output has a figure for."""
        if not outputs and not self.allow_degenerate:
            return ["there are no outputs, and nothing to compare"]
        found = list(self._degenerate(outputs))
        if self.fail_below is not None:
            found += self._too_low(outputs, self.fail_below)
        if self.max_disagreement is not None:
            found += _above(outputs, _disagreement, self.max_disagreement, "{:.2%} disagree, more than {:.4g}%", 100)
        if self.max_kl is not None:
            found += _above(outputs, _kl, self.max_kl, "KL divergence {:.3g}, more than {:g}")
        if self.max_accuracy_loss is not None:
            limit = self.max_accuracy_loss
            found += _above(outputs, _accuracy_loss, limit, "accuracy falls by {:.2%}, more than {:.4g}%", 100)
        if self.max_perplexity_rise is not None:
            limit = self.max_perplexity_rise
            found += _above(outputs, _perplexity_rise, limit, "perplexity rises by {:.2%}, more than {:.4g}%", 100)
        if self.min_top_5 is not None:
            what = "output has more than five classes; --logits names one whose last axis is of classes"
            found += _below(outputs, _top_5, self.min_top_5, "same of the first 5 {:.2%}", what)
        if self.min_iou is not None:
            what = "output is a mask of classes (int32 of two axes or more)"
            found += _below(outputs, lambda output: output.mean_iou, self.min_iou, "mean IoU {:.2%}", what)
        return found

    def _degenerate(self, outputs: Sequence[OutputComparison]) -> Iterator[str]:
        for output in outputs:
            judged = self.fail_below is not None or output.agreement is not None
            if output.nothing and judged and not self.allow_degenerate:
                yield f"output {output.name!r}: nothing to compare, {output.nothing}"

    def _too_low(self, outputs: Sequence[OutputComparison], fail_below: float) -> Iterator[str]:
        for output in outputs:
            if output.nothing or self._has_own_limit(output) or output.snr_db >= fail_below:
                continue
            told = "not finite or another label" if output.snr_db == -math.inf else f"{output.snr_db:.1f} dB"
            yield f"output {output.name!r}: {told}, below {fail_below:g} dB"

    def _has_own_limit(self, output: OutputComparison) -> bool:
        """Labels, and masks, whose numbers of classes are no amounts: decibels say little of them."""
        only_labels = output.figures is None and self.max_disagreement is not None
        return only_labels or (output.mean_iou is not None and self.min_iou is not None)


def _below(
    outputs: Sequence[OutputComparison],
    figure: Callable[[OutputComparison], float | None],
    limit: float,
    told: str,
    what: str,
) -> Iterator[str]:
    """``what``: that no output is, where none has the figure."""
    figures = {output.name: value for output in outputs if (value := figure(output)) is not None}
    if not figures:
        yield f"no {what}"
    for name, value in figures.items():
        if not value >= limit:
            yield f"output {name!r}: {told.format(value)}, less than {100 * limit:.4g}%"


def _above(
    outputs: Sequence[OutputComparison],
    figure: Callable[[OutputComparison], float | None],
    limit: float,
    told: str,
    unit: float = 1,
) -> Iterator[str]:
    figures = {output.name: value for output in outputs if (value := figure(output)) is not None}
    if not figures:
        what = "targets (--labels)" if figure in (_accuracy_loss, _perplexity_rise) else "labels or classes"
        yield f"no output has {what} to judge by; --logits names one whose last axis is of classes"
    for name, value in figures.items():
        if not value <= limit:
            yield f"output {name!r}: {told.format(value, unit * limit)}"


def _disagreement(output: OutputComparison) -> float | None:
    return None if output.agreement is None else 1 - output.agreement


def _kl(output: OutputComparison) -> float | None:
    return None if output.classes is None else output.classes.kl_mean


def _accuracy_loss(output: OutputComparison) -> float | None:
    right = None if output.classes is None else output.classes.targets
    return None if right is None else right.accuracy_before - right.accuracy_after


def _perplexity_rise(output: OutputComparison) -> float | None:
    right = None if output.classes is None else output.classes.targets
    if right is None:
        return None
    if not math.isfinite(right.perplexity_before):
        return math.nan  # which no limit holds
    return right.perplexity_after / right.perplexity_before - 1


def _top_5(output: OutputComparison) -> float | None:
    return None if output.classes is None else output.classes.top_5
