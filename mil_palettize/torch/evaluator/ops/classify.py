"""From probabilities to a label."""

from __future__ import annotations

from typing import Any

from mil_palettize.torch.evaluator.ops.registry import Tensor, op


@op("classify")
def classify(probabilities: Tensor, classes: Any) -> tuple[Any, dict[Any, float]]:
    """The most probable class, and the probability of each. ``classes``: strings, or int64."""
    labels = classes.reshape(-1).tolist() if hasattr(classes, "reshape") else list(classes)
    flat = probabilities.reshape(-1)
    return labels[int(flat.argmax())], dict(zip(labels, flat.tolist(), strict=True))
