"""Boxes that a detector leaves, matched with those of another: their order, and how many there are, is no error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

_MOST_SHARE = 2.0  # larger coordinates are pixels
_LEAST_OVERLAP = 0.5  # intersection over union of boxes that are the same, as COCO's easiest measure has it


class BoxOutputs(NamedTuple):
    """Names of outputs with a row for each box: ``coordinates`` (boxes, 4), of the middle, width and height, and
    ``confidence`` (boxes, classes)."""

    coordinates: str
    confidence: str


@dataclass
class BoxCounts:
    """Over all samples: boxes that both have, that only the original has, and that only the other has."""

    matched: int = 0
    lost: int = 0
    new: int = 0

    @property
    def share(self) -> float | None:
        """That both have, of all; None where there are none."""
        total = self.matched + self.lost + self.new
        return self.matched / total if total else None

    def note(self) -> str:
        """In words; "" where there were none."""
        total = self.matched + self.lost
        if not total + self.new:
            return ""
        rest = f"{self.lost} lost, {self.new} new; those count as zeros" if self.lost + self.new else "none lost or new"
        return f"Boxes are matched by class and place: {self.matched} of {total} found again, {rest}."


def side_by_side(
    one: Mapping[str, Any], two: Mapping[str, Any], names: BoxOutputs, counts: BoxCounts
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Outputs of both with their boxes in one order: pairs of one class that overlap by half or more, the most first,
    then those that one of them lacks, where it gets a row of zeros. Added to ``counts``."""
    pairs = _pairs(one[names.coordinates], one[names.confidence], two[names.coordinates], two[names.confidence])
    mine, theirs = [i for i, _ in pairs], [j for _, j in pairs]
    lost = sorted(set(range(len(one[names.coordinates]))).difference(mine))
    new = sorted(set(range(len(two[names.coordinates]))).difference(theirs))
    counts.matched += len(pairs)
    counts.lost += len(lost)
    counts.new += len(new)
    first = {name: _rows(one[name], mine + lost + [-1] * len(new)) for name in names}
    second = {name: _rows(two[name], theirs + [-1] * len(lost) + new) for name in names}
    return {**one, **first}, {**two, **second}


def pixel_boxes(coordinates: np.ndarray, width: float, height: float) -> np.ndarray:
    """float64 (boxes, 4): left, top, width and height in pixels of a picture of this size, of ``coordinates`` that are
    shares of it, as Core ML has them, or pixels."""
    places = np.asarray(coordinates, np.float64).reshape(-1, 4)
    if not places.size or np.abs(places).max() <= _MOST_SHARE:
        places = places * np.array([width, height, width, height])
    return np.concatenate([places[:, :2] - places[:, 2:] / 2, places[:, 2:]], axis=1)


def overlaps(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Intersection over union of all pairs, float64 (boxes of one, boxes of two)."""
    low, high = zip(*((b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2) for b in (one, two)), strict=True)
    size = np.minimum(high[0][:, None], high[1]) - np.maximum(low[0][:, None], low[1])
    shared = np.prod(np.maximum(size, 0), axis=2)
    areas = [np.prod(np.maximum(b[:, 2:], 0), axis=1) for b in (one, two)]
    union = areas[0][:, None] + areas[1] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _pairs(
    boxes: np.ndarray, scores: np.ndarray, other_boxes: np.ndarray, other_scores: np.ndarray
) -> list[tuple[int, int]]:
    """In the order of the first boxes."""
    if not len(boxes) or not len(other_boxes):
        return []
    found = overlaps(boxes.astype(np.float64), other_boxes.astype(np.float64))
    found[(boxes[:, None] == other_boxes).all(axis=2)] = 1  # those without an area too
    found[scores.argmax(axis=1)[:, None] != other_scores.argmax(axis=1)] = 0
    pairs: list[tuple[int, int]] = []
    free = np.ones(len(boxes), bool), np.ones(len(other_boxes), bool)
    for place in np.argsort(-found, axis=None, kind="stable"):
        i, j = divmod(int(place), len(other_boxes))
        if not found[i, j] >= _LEAST_OVERLAP:
            break
        if free[0][i] and free[1][j]:
            free[0][i] = free[1][j] = False
            pairs.append((i, j))
    return sorted(pairs)


def _rows(array: np.ndarray, order: list[int]) -> np.ndarray:
    """Those in ``order``, zeros for -1."""
    return np.concatenate([array, np.zeros((1, *array.shape[1:]), array.dtype)])[order]
