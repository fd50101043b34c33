"""Masks of classes: how much of each class's area in either is the same area in both."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

_MOST = 256  # classes; whole numbers of more values are no mask


@dataclass
class MaskSums:
    """Of all masks added so far: elements of each class in both, and in either."""

    shared: Counter[int] = field(default_factory=Counter)
    either: Counter[int] = field(default_factory=Counter)

    def add(self, one: np.ndarray, two: np.ndarray) -> None:
        """Arrays of one shape, of whole numbers."""
        if len(self.either) > _MOST:
            return
        before, after, both = (_counted(array) for array in (one, two, one[one == two]))
        self.shared += both
        self.either += before + after
        self.either -= both

    def mean_iou(self) -> float | None:
        """Of all classes that occur in either, over all masks; None where there are none, or too many for a mask."""
        if not self.either or len(self.either) > _MOST:
            return None
        return sum(self.shared[label] / count for label, count in self.either.items()) / len(self.either)


def is_mask(array: np.ndarray) -> bool:
    """Whether these whole numbers may say what is where: int32 of two axes or more. Images are bytes."""
    return array.dtype == np.int32 and sum(size > 1 for size in array.shape) > 1


def _counted(array: np.ndarray) -> Counter[int]:
    labels, counts = np.unique(array, return_counts=True)
    return Counter(dict(zip(labels.tolist(), counts.tolist(), strict=True)))
