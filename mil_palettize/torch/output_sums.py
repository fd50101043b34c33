"""One output of both models over all samples: numbers, labels, probabilities."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from mil_palettize.errors import EvaluationError
from mil_palettize.reports.compared_parts import Distance, OutputComparison
from mil_palettize.torch.class_sums import ClassSums
from mil_palettize.torch.labels import class_number
from mil_palettize.torch.mask_sums import MaskSums, is_mask
from mil_palettize.torch.metrics import Sums, snr_db


@dataclass
class OutputSums:
    """Of the samples added so far. ``logits``: its last axis is of classes. ``steps``: of the calls of sequences,
    first to last."""

    name: str
    logits: bool = False
    classes: ClassSums = field(default_factory=ClassSums)
    masks: MaskSums = field(default_factory=MaskSums)
    shape: tuple[int, ...] = ()
    sums: Sums = field(default_factory=Sums)
    worst: float = math.inf
    samples: int = 0
    agreed: float = 0.0
    judged: bool = False
    numbers: bool = False
    labels: set[Any] = field(default_factory=set)
    other_shapes: int = 0
    steps: list[OutputSums] = field(default_factory=list)

    def add(self, one: Any, two: Any, label: Any = None) -> None:
        """What both models give for a sample; ``label``: the right class, or those of the rows of logits, where that is
        known. Raises EvaluationError where these cannot be compared."""
        self.samples += 1
        if isinstance(one, dict) or isinstance(two, dict):
            if not isinstance(one, dict) or not isinstance(two, dict) or one.keys() != two.keys():
                raise EvaluationError(f"the classes of output {self.name!r} differ; compare a model with its palette")
            self._judge(_most_probable(one) == _most_probable(two))
            right = None if label is None else np.array([class_number(label, list(one), self.name)])
            one, two = (np.array([values[name] for name in one], np.float64) for values in (one, two))
            self.classes.add(one, two, right, logits=False)
        if not isinstance(one, np.ndarray) or not isinstance(two, np.ndarray):
            self._judge(one == two)
            self.labels |= {one, two}
            return
        self.numbers, self.shape = True, one.shape
        if one.shape != two.shape:
            self.other_shapes += 1
            one, two = _of_one_length(self.name, one, two)
        if self.logits:
            self._add_logits(one, two, label)
        if one.dtype.kind in "iub":
            self._judge(float(np.mean(one == two)) if one.size else 1.0)
            if is_mask(one):
                self.masks.add(one, two)
        pair = torch.as_tensor(np.asarray(one, np.float64)), torch.as_tensor(np.asarray(two, np.float64))
        self.sums.add(*pair)
        self.worst = min(self.worst, snr_db(*pair))

    def add_step(self, step: int, one: Any, two: Any, label: Any) -> None:
        """As :meth:`add`, of call number ``step`` of a sequence."""
        self.add(one, two, label)
        if step == len(self.steps):
            self.steps.append(OutputSums(self.name, self.logits))
        self.steps[step].add(one, two, label)

    def _add_logits(self, one: np.ndarray, two: np.ndarray, label: Any) -> None:
        if one.dtype.kind != "f" or not one.ndim or one.shape[-1] < 2:
            told = f"output {self.name!r} is {one.dtype}{list(one.shape)}"
            raise EvaluationError(f"{told}, whose last axis is not of classes; logits are floats, two classes or more")
        right = None if label is None else _numbers(label, one.shape[-1], self.name)
        self.classes.add(one, two, right, logits=True)

    def _judge(self, agreed: float) -> None:
        self.judged, self.agreed = True, self.agreed + agreed

    @property
    def error(self) -> float:
        """Squared, relative to the power, infinite where something is not finite any more; of labels the share that
        differs."""
        if not self.numbers:
            return 1 - self.agreed / self.samples
        return math.inf if self.sums.non_finite else self.sums.noise / (self.sums.signal or 1.0)

    @property
    def figures(self) -> Distance | None:
        return self.sums.distance() if self.numbers else None

    def comparison(self, figures: Distance | None, first_non_finite: str, *, telling: bool) -> OutputComparison:
        """``figures``: those of the output; ``telling``: whether any output of the model tells of a palette."""
        nothing = figures.nothing if figures is not None else "" if telling else self._one_label()
        classes = self.classes.figures()
        return OutputComparison(
            self.name,
            self.shape,
            figures,
            self.worst if self.numbers else None,
            self.agreed / self.samples if self.judged else None if classes is None else classes.same,
            nothing,
            first_non_finite if self.sums.original_non_finite else "",
            classes,
            self.masks.mean_iou(),
            tuple(step.comparison(step.figures, "", telling=True) for step in self.steps),
        )

    def _one_label(self) -> str:
        """Of text: why it tells nothing by itself, "" where it does. Beside probabilities it need not."""
        return f"it is always {next(iter(self.labels))!r}" if len(self.labels) == 1 else ""


def _numbers(label: Any, classes: int, name: str) -> np.ndarray:
    """Of labels for rows of logits, whose classes have no names."""
    array = np.asarray(label)
    if array.dtype.kind in "iu":
        return array
    return np.array([class_number(one, range(classes), name) for one in array.reshape(-1)]).reshape(array.shape)


def _most_probable(probabilities: Mapping[Any, float]) -> Any:
    return max(probabilities.items(), key=lambda item: item[1])[0]


def _of_one_length(name: str, one: np.ndarray, two: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes, or whatever else there may be more of: the shorter is filled with zeros."""
    if one.ndim != two.ndim or one.shape[1:] != two.shape[1:]:
        raise EvaluationError(f"output {name!r} is {list(one.shape)} of one model, {list(two.shape)} of the other")
    length = max(len(one), len(two))
    filled = [np.concatenate([a, np.zeros((length - len(a), *a.shape[1:]), a.dtype)]) for a in (one, two)]
    return filled[0], filled[1]
