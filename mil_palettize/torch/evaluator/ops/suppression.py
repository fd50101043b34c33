"""Non-maximum suppression: the best boxes that overlap little with better ones."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from mil_palettize.torch.evaluator.ops.registry import Flag, Int, Number, Tensor, op


@op("non_maximum_suppression")
def non_maximum_suppression(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: Number,
    max_boxes: Int,
    score_threshold: Number | None = None,
    per_class_suppression: Flag = False,
) -> tuple[Tensor, ...]:
    """The form of iOS 15, which has a ``score_threshold``, or else that of iOS 17: there the boxes are on the last axis
    and no fourth output says how many were chosen. Padded to ``max_boxes`` with zeros, indices with -1."""
    newer = score_threshold is None
    if newer:
        boxes, scores = boxes.transpose(1, 2), scores.transpose(1, 2)
    threshold = float("-inf") if score_threshold is None else score_threshold
    kept = [
        kept_boxes(box, score, iou_threshold, threshold, max_boxes, per_class_suppression)
        for box, score in zip(boxes, scores, strict=True)
    ]
    chosen_boxes = _padded_rows(boxes, kept, max_boxes)
    chosen_scores = _padded_rows(scores, kept, max_boxes)
    indices = torch.stack([F.pad(rows.int(), (0, max_boxes - len(rows)), value=-1) for rows in kept])
    if newer:
        return chosen_boxes.transpose(1, 2), chosen_scores.transpose(1, 2), indices
    counts = torch.tensor([len(rows) for rows in kept], dtype=torch.int32, device=boxes.device)
    return chosen_boxes, chosen_scores, indices, counts


def _padded_rows(values: Tensor, kept: list[Tensor], size: int) -> Tensor:
    return torch.stack([F.pad(v[rows], (0, 0, 0, size - len(rows))) for v, rows in zip(values, kept, strict=True)])


@torch.no_grad()
def kept_boxes(
    boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, max_boxes: int, per_class: bool
) -> Tensor:
    """Rows of one image's boxes, best first. Core ML keeps the best box even where no score reaches the threshold."""
    best, classes = scores.max(dim=1)
    order = best.argsort(descending=True, stable=True)
    left = order[best[order] >= score_threshold]
    if not len(left):
        left = order[:1]
    kept: list[int] = []
    while len(left) and len(kept) < max_boxes:
        first, left = left[0], left[1:]
        kept.append(int(first))
        suppressed = _overlap(boxes[first], boxes[left]) > iou_threshold
        if per_class:
            suppressed &= classes[left] == classes[first]
        left = left[~suppressed]
    return torch.tensor(kept, dtype=torch.int64, device=boxes.device)


def _overlap(box: Tensor, others: Tensor) -> Tensor:
    """Intersection over union; not a number for boxes without an area, which suppress nothing. Boxes are (x, y, width,
    height), x and y those of the center."""
    high = torch.minimum(box[:2] + box[2:] / 2, others[:, :2] + others[:, 2:] / 2)
    low = torch.maximum(box[:2] - box[2:] / 2, others[:, :2] - others[:, 2:] / 2)
    shared = (high - low).clamp(min=0).prod(dim=1)
    return shared / (box[2:].prod() + others[:, 2:].prod(dim=1) - shared)
