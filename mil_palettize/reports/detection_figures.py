"""How well detectors find what is in pictures, before and after."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class DetectionFigures:
    """Of ``pictures`` in which ``boxes`` are known. ``map_before``, ``map_after``: mean average precision of all
    classes, over overlaps (IoU) from 0.5 to 0.95, as COCO has it; ``map_50_before``, ``map_50_after``: at 0.5."""

    pictures: int
    boxes: int
    map_before: float
    map_after: float
    map_50_before: float
    map_50_after: float

    @property
    def loss(self) -> float:
        return self.map_before - self.map_after

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def sentence(self) -> str:
        return (
            f"mAP of {self.boxes} boxes in {self.pictures} pictures: {self.map_before:.2%} → {self.map_after:.2%}; "
            f"at an overlap of 0.5: {self.map_50_before:.2%} → {self.map_50_after:.2%}."
        )
