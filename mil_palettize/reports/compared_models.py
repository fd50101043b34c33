"""What a palette did to a model's outputs: all figures of a comparison, without how they are shown."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mil_palettize.reports.attribution import Attribution
from mil_palettize.reports.class_figures import finite
from mil_palettize.reports.compared_parts import OpComparison, OutputComparison, WeightComparison
from mil_palettize.reports.detection_figures import DetectionFigures
from mil_palettize.reports.gate import Gate
from mil_palettize.reports.greedy_figures import GreedyFigures
from mil_palettize.reports.pictures import Detections, OutputPicture

# A note, of inputs that nobody gave.
MADE_UP = "The inputs are made up: figures of real ones differ, most of all for classifiers."


@dataclass
class ComparedModels:
    """Two models on the same inputs. ``inputs``: where these came from, in words. ``bytes_before``: 0 where the
    original is no package. ``ops``, ``attributions``: empty unless asked for. ``unmatched``: ops of either that the
    other has not. ``pictures``, ``detections``: for the page. ``call``: of Python, that makes it again, "" where
    none is known."""

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
    pictures: list[OutputPicture] = field(default_factory=list)
    detections: list[Detections] = field(default_factory=list)
    detected: DetectionFigures | None = None
    precision: str = "fp32"
    runtime: str = "torch"
    notes: list[str] = field(default_factory=list)
    call: str = ""

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
        max_map_loss: float | None = None,
        max_perplexity_rise: float | None = None,
        min_top_5: float | None = None,
        min_iou: float | None = None,
        allow_degenerate: bool = False,
    ) -> list[str]:
        """Why this comparison is not good enough, a line for each output: an SNR below ``fail_below`` decibels, a
        larger share (0 to 1) of other labels or classes than ``max_disagreement``, a larger mean KL divergence than
        ``max_kl`` nats, a larger loss of accuracy (0 to 1) than ``max_accuracy_loss``, a mean average
        precision (0 to 1) that falls by more than ``max_map_loss``, a perplexity that rises by more
        than the share ``max_perplexity_rise``, fewer of the original's five most probable classes among the other's
        five than the share ``min_top_5``, a smaller mean IoU (0 to 1) of a mask than ``min_iou``, or nothing to
        compare, unless ``allow_degenerate``. Empty where it passes."""
        gate = Gate(
            fail_below, max_disagreement, max_kl, max_accuracy_loss, max_perplexity_rise, min_top_5, min_iou,
            allow_degenerate,
        )  # fmt: skip
        return [*gate.failures(self.outputs), *self._map_failures(max_map_loss)]

    def _map_failures(self, limit: float | None) -> Iterator[str]:
        if limit is not None and self.detected is None:
            yield "no boxes are known to judge by; give --labels with a .json file as COCO has it"
        if limit is not None and self.detected is not None and not self.detected.loss <= limit:
            yield f"mAP falls by {self.detected.loss:.2%}, more than {100 * limit:.4g}%"

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
            "detected": None if self.detected is None else self.detected.to_dict(),
            "attributions": [found.to_dict() for found in self.attributions],
            "precision": self.precision,
            "runtime": self.runtime,
            "warnings": self.warnings,
            "notes": self.notes,
        }  # fmt: skip

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)


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
