"""Non-maximum suppression, in both forms."""

from __future__ import annotations

from typing import Any

import coremltools as ct
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from evaluator import evaluated, mb, same  # noqa: E402

from mil_palettize.torch.evaluator.ops import OPS  # noqa: E402


def survivors(
    boxes: np.ndarray, scores: np.ndarray, iou: float, threshold: float, size: int, per_class: bool
) -> list[int]:
    """Rows that survive in one image, as the specification of Core ML's layer tells it (``NeuralNetwork.proto``)."""
    low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    best, classes = scores.max(1), scores.argmax(1)
    if not (best >= threshold).any():
        return [int(best.argmax())]

    def overlap(a: int, b: int) -> float:
        sides = np.minimum(high[a], high[b]) - np.maximum(low[a], low[b])
        shared = sides.prod() if (sides > 0).all() else 0.0
        return float(shared / (boxes[a, 2:].prod() + boxes[b, 2:].prod() - shared))

    groups = [np.flatnonzero(classes == c) for c in np.unique(classes)] if per_class else [np.arange(len(boxes))]
    kept: list[int] = []
    for group in groups:
        inside: list[int] = []
        for row in sorted(group, key=lambda row: -best[row]):
            if best[row] >= threshold and all(overlap(row, other) <= iou for other in inside):
                inside.append(int(row))
        kept += inside
    return sorted(kept, key=lambda row: -best[row])[:size]


def padded(boxes: np.ndarray, scores: np.ndarray, size: int, *rules: Any) -> list[np.ndarray]:
    """The four outputs of the op's older form."""
    n, _, classes = scores.shape
    outputs = [np.zeros((n, size, 4)), np.zeros((n, size, classes)), np.full((n, size), -1), np.zeros(n, np.int32)]
    for i in range(n):
        iou, threshold, per_class = rules
        rows = survivors(boxes[i], scores[i], iou, threshold, size, per_class)
        for output, value in zip(outputs, (boxes[i][rows], scores[i][rows], rows), strict=False):
            output[i, : len(rows)] = value
        outputs[3][i] = len(rows)
    return outputs


def scene(classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Two images of twelve boxes that overlap a good deal."""
    rng = np.random.default_rng(classes)
    boxes = np.concatenate([rng.uniform(0, 4, (2, 12, 2)), rng.uniform(1, 5, (2, 12, 2))], axis=2)
    return boxes.astype(np.float32), rng.uniform(0, 1, (2, 12, classes)).astype(np.float32)


@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize(("iou", "threshold", "size"), [(0.2, 0.3, 12), (0.5, 0.6, 3), (0.3, 2.0, 4), (0.1, -1.0, 15)])
def test_non_maximum_suppression(iou, threshold, size, classes, per_class):
    boxes, scores = scene(classes)

    def build(boxes, scores):
        return mb.non_maximum_suppression(
            boxes=boxes,
            scores=scores,
            iou_threshold=iou,
            score_threshold=threshold,
            max_boxes=size,
            per_class_suppression=per_class,
        )

    found = evaluated(build, boxes, scores, target=ct.target.iOS15)
    same(found, padded(boxes, scores, size, iou, threshold, per_class))
    assert [array.dtype for array in found] == [np.float32, np.float32, np.int32, np.int32]


@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize(("classes", "size"), [(1, 12), (3, 4)])
def test_non_maximum_suppression_since_ios17(classes, size, per_class):
    boxes, scores = scene(classes)

    def build(boxes, scores):
        return mb.non_maximum_suppression(
            boxes=boxes, scores=scores, iou_threshold=0.3, max_boxes=size, per_class_suppression=per_class
        )

    wanted = padded(boxes, scores, size, 0.3, -np.inf, per_class)
    found = evaluated(build, boxes.transpose(0, 2, 1), scores.transpose(0, 2, 1), target=ct.target.iOS17)
    same(found, [wanted[0].transpose(0, 2, 1), wanted[1].transpose(0, 2, 1), wanted[2]])


def test_non_maximum_suppression_of_boxes_without_an_area():
    boxes = np.array([[[1, 1, 0, 0], [1, 1, 0, 0], [2, 2, 1, 1]]], np.float32)
    scores = np.array([[[0.1], [0.9], [0.5]]], np.float32)

    def build(boxes, scores):
        return mb.non_maximum_suppression(
            boxes=boxes, scores=scores, iou_threshold=0.5, score_threshold=0.0, max_boxes=3
        )

    same(evaluated(build, boxes, scores, target=ct.target.iOS16)[2:], [np.array([[1, 2, 0]]), np.array([3])])


def test_the_best_box_is_kept_where_no_score_reaches_the_threshold():
    suppression = OPS["non_maximum_suppression"].function
    boxes, scores = (torch.tensor(array) for array in scene(2))
    _, _, indices, counts = suppression(boxes, scores, 0.5, 2, score_threshold=9.0)
    assert counts.tolist() == [1, 1]
    assert indices.tolist() == [[best, -1] for best in scores.amax(2).argmax(1).tolist()]


def test_gradients_reach_the_boxes_that_are_kept():
    boxes, scores = (torch.tensor(array, requires_grad=True) for array in scene(2))
    chosen, of_chosen, indices = OPS["non_maximum_suppression"].function(
        boxes.transpose(1, 2), scores.transpose(1, 2), 0.2, 3
    )
    (chosen.sum() + of_chosen.sum()).backward()
    wanted = torch.zeros(2, 12).scatter(1, indices.long(), 1.0)
    assert torch.equal(boxes.grad, wanted[..., None].expand(2, 12, 4))
    assert torch.equal(scores.grad, wanted[..., None].expand(2, 12, 2))
