"""Two models run side by side, sample by sample: what differs in their outputs and in the results of their ops."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mil_palettize.errors import EvaluationError
from mil_palettize.reports.compared_parts import OpComparison, OutputComparison
from mil_palettize.reports.detection_figures import DetectionFigures
from mil_palettize.reports.pictures import Detections, OutputPicture
from mil_palettize.torch.ahead import in_turn
from mil_palettize.torch.box_matching import BoxCounts, BoxOutputs, side_by_side
from mil_palettize.torch.coco_labels import CocoLabels, coco_labels, is_coco
from mil_palettize.torch.comparison_options import LOGITS, Options
from mil_palettize.torch.evaluator.model_pipeline import Evaluated
from mil_palettize.torch.evaluator.ops.random import drawing
from mil_palettize.torch.evaluator.program import OpInfo
from mil_palettize.torch.labels import labels_for
from mil_palettize.torch.metrics import Sums
from mil_palettize.torch.op_captures import Capture, FirstNonFinite
from mil_palettize.torch.output_sums import OutputSums
from mil_palettize.torch.picture_keeper import PictureKeeper
from mil_palettize.torch.samples import Samples
from mil_palettize.torch.sides import PackageSide, RecordedSide, Sample, Side, TorchSide, as_model_gives


class PairedRun:
    """``one``: the original. ``per_op``: both are packages that the evaluator runs, and the results of their ops are
    compared too; those of only one are in memory. ``seed``: of what ops draw. ``logits``: outputs whose last axis is
    of classes. ``boxes``: outputs of boxes, which are matched. ``pictures``: what can be seen is kept there;
    ``known_boxes``: what is to be found."""

    def __init__(
        self,
        one: Side,
        two: Side,
        *,
        per_op: bool,
        seed: int,
        logits: Sequence[str] = (),
        boxes: BoxOutputs | None = None,
        pictures: PictureKeeper | None = None,
        known_boxes: CocoLabels | None = None,
    ) -> None:
        self._pair = one, two
        self._foreign = isinstance(one, RecordedSide | TorchSide)
        self._per_op = per_op
        self._seed = seed
        self._logits = logits
        self._boxes, self._box_counts = boxes, BoxCounts()
        self._pictures, self._known_boxes = pictures, known_boxes
        self._samples, self._calls = -1, 0
        self._found: dict[str, OutputSums] = {}
        self._ops: dict[str, tuple[str, Sums]] = {}
        self._not_finite: tuple[Sequence[Sample], int] | None = None  # calls up to the first such, and that one's seed
        self.unmatched = 0
        self.remarks: list[str] = []

    def add(self, sample: Sample | Sequence[Sample], label: Any = None) -> None:
        """Run both on ``sample``, or on a sequence of calls, through which their states live. ``label``: its right
        class or classes, or those of each call, where known. Raises EvaluationError."""
        states = [side.make_state() for side in self._pair]
        self._samples += 1
        if isinstance(sample, Mapping):
            self._call([sample], states, label, step=None)
            return
        if label is not None:
            label = [label] if isinstance(label, str) or not hasattr(label, "__len__") else label
            if len(label) != len(sample):
                told = f"a sequence has {len(sample)} calls, and labels for {len(label)}"
                raise EvaluationError(f"{told}; give one for each")
        for step in range(len(sample)):
            try:
                self._call(sample[: step + 1], states, None if label is None else label[step], step)
            except EvaluationError as error:
                raise EvaluationError(f"call {step}: {error}") from error

    def _call(self, calls: Sequence[Sample], states: Sequence[Any], label: Any, step: int | None) -> None:
        """The last of ``calls``."""
        kept: dict[str, torch.Tensor] = {}
        matched: set[str] = set()
        extra: set[str] = set()

        def compare_with(op: OpInfo, name: str, value: torch.Tensor) -> None:
            before = kept.get(name)
            if before is None or before.shape != value.shape:
                extra.add(name)
                return
            matched.add(name)
            self._ops.setdefault(name, (op.type, Sums()))[1].add(before, value)

        keep = Capture(lambda op, name, value: kept.update({name: value}))
        results = [
            self._predict(0, calls[-1], states[0], keep),
            self._predict(1, calls[-1], states[1], Capture(compare_with)),
        ]
        self.unmatched = max(self.unmatched, len(kept.keys() - matched) + len(extra))
        single = sorted(results[0].keys() ^ results[1].keys())
        if single:
            path = self._pair[0 if single[0] in results[0] else 1].name
            raise EvaluationError(f"output {single[0]!r} is of {path} only; compare a model with its palette")
        if self._pictures is not None:
            self._pictures.add(self._samples, calls[-1], *results)
        if self._known_boxes is not None:
            self._known_boxes.add(self._samples, calls[-1], *results)
        if self._boxes is not None and set(self._boxes) <= results[0].keys():
            results = list(side_by_side(results[0], results[1], self._boxes, self._box_counts))
        for name, value in results[0].items():
            output = self._found.setdefault(name, OutputSums(name, self._is_logits(name, value)))
            two = results[1][name]
            one = as_model_gives(name, value, two) if self._foreign else value
            if step is None:
                output.add(one, two, label)
            else:
                output.add_step(step, one, two, label)
            if output.sums.original_non_finite and self._not_finite is None:
                self._not_finite = calls, self._seed + self._calls
        self._calls += 1

    def _is_logits(self, name: str, value: Any) -> bool:
        """As asked for, or as the usual name says."""
        usual = isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.shape[-1:] > (1,)
        return name in self._logits or (not self._logits and name == LOGITS and usual)

    def _predict(self, which: int, sample: Sample, state: Any, capture: Capture) -> dict[str, Any]:
        side = self._pair[which]
        context: AbstractContextManager[Any] = nullcontext()
        if self._per_op and isinstance(side, PackageSide):
            context = side.module.listening(capture)
        try:
            with context, drawing(self._seed + self._calls):
                return side.outputs(sample, state)
        except EvaluationError as error:  # which of the two files it is about
            raise EvaluationError(f"{side.name}: {error}") from error

    def _first_non_finite(self) -> str:
        """Where values of the original stop being finite, in words; "" where all are, or ops cannot be seen."""
        original = self._pair[0]
        if self._not_finite is None or not isinstance(original, PackageSide):
            return ""
        listener = FirstNonFinite()
        calls, seed = self._not_finite
        given = sorted({name for call in calls for name, value in call.items() if not _is_finite(value)})
        if given:
            return f"as input {given[0]!r} is not"
        state = original.make_state()
        for number, call in enumerate(calls, start=seed - len(calls) + 1):
            context = original.module.listening(listener) if number == seed else nullcontext()
            with context, drawing(number):
                original.module.results(call, state)
        return listener.told()

    def check_classes(self, *, labelled: bool) -> None:
        """Raise EvaluationError for logits that are no output, and for labels without an output of classes."""
        unknown = [name for name in self._logits if name not in self._found]
        if unknown:
            raise EvaluationError(
                f"there is no output {unknown[0]!r} for logits; the model gives {', '.join(map(repr, self._found))}"
            )
        if labelled and not any(output.classes.rows or output.logits for output in self._found.values()):
            raise EvaluationError("labels need an output of classes; name that of logits (--logits NAME)")

    def notes(self) -> list[str]:
        boxes = self._box_counts.note()
        longer = [
            f"Output {name!r} is longer or shorter in {o.other_shapes} of {o.samples} samples, where what is missing "
            "counts as zeros."
            for name, o in self._found.items()
            if o.other_shapes
        ]
        return [*([boxes] if boxes else []), *self.remarks, *longer]

    def outputs(self) -> list[OutputComparison]:
        """Of all outputs, over all samples."""
        first_non_finite = self._first_non_finite()
        figures = {name: output.figures for name, output in self._found.items()}
        telling = any(found is not None and not found.nothing for found in figures.values())
        found = [o.comparison(figures[name], first_non_finite, telling=telling) for name, o in self._found.items()]
        boxes = self._boxes or ()
        return [replace(one, agreement=self._box_counts.share) if one.name in boxes else one for one in found]

    @property
    def error(self) -> float:
        """Of all outputs of numbers together, each relative to its power; without such, of their labels."""
        outputs = [o for o in self._found.values() if o.numbers] or self._found.values()
        return math.fsum(output.error for output in outputs)

    def pictures(self) -> list[OutputPicture]:
        """Of outputs that are images; none where they were not kept."""
        return [] if self._pictures is None else self._pictures.pictures()

    def detections(self) -> list[Detections]:
        """One where boxes were kept."""
        return [] if self._pictures is None else self._pictures.detections()

    def detected(self) -> DetectionFigures | None:
        """How well boxes are found, where it is known what there is."""
        return None if self._known_boxes is None else self._known_boxes.figures()

    def op_comparisons(self) -> list[OpComparison]:
        return [OpComparison(name, kind, sums.distance()) for name, (kind, sums) in self._ops.items()]


def _is_finite(value: Any) -> bool:
    array = np.asarray(value)
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def paired(one: Side, two: Side, samples: Samples, options: Options, module: Evaluated) -> PairedRun:
    """Both run on all samples, with their labels where these are given. ``module``: what the original is, or what is
    compared with it. Raises EvaluationError."""
    boxes = labels = None
    if is_coco(options.labels):
        boxes = coco_labels(Path(options.labels), samples, module.boxes, module.box_classes)
    elif options.labels is not None:
        labels = labels_for(options.labels, samples)
    run = PairedRun(
        one,
        two,
        per_op=options.per_op,
        seed=options.seed,
        logits=options.logits,
        boxes=module.boxes,
        pictures=PictureKeeper(module.features, module.boxes),
        known_boxes=boxes,
    )
    models = [side.ahead for side in (one, two) if isinstance(side, PackageSide) and not options.per_op]
    for number, sample in enumerate(in_turn(samples, models)):
        with samples.naming(number):
            run.add(sample, None if labels is None else labels.of_samples[number])
        options.count("comparing", number + 1, len(samples))
    run.check_classes(labelled=labels is not None)
    run.remarks += [*(() if labels is None else labels.notes), *(() if boxes is None else boxes.notes)]
    return run
