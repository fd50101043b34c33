"""Images and boxes that both models gave, kept of the sample that differs most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mil_palettize.reports.pictures import Box, Detections, OutputPicture
from mil_palettize.torch.box_matching import BoxCounts, BoxOutputs, pixel_boxes, side_by_side
from mil_palettize.torch.features import CHANNELS, Features

_MOST = 4  # outputs that are shown
_MOST_BOXES = 100
_WHITE = 255


@dataclass
class PictureKeeper:
    """``features``: of the model; ``boxes``: its outputs of boxes, if it has some."""

    features: Features
    boxes: BoxOutputs | None = None
    _worst: dict[str, tuple[float, int, np.ndarray, np.ndarray]] = field(default_factory=dict)
    _detections: tuple[float, Detections] | None = None

    def add(self, number: int, sample: Mapping[str, Any], one: Mapping[str, Any], two: Mapping[str, Any]) -> None:
        """What both give for sample ``number``, boxes in their own order."""
        for name in [name for name in one if self.features.image_output(name) is not None][:_MOST]:
            before, after = np.asarray(one[name]), np.asarray(two[name])
            if before.shape == after.shape and before.size:
                error = float(np.square(before.astype(np.float64) - after).mean())
                if name not in self._worst or error > self._worst[name][0]:
                    self._worst[name] = error, number, before, after
        if self.boxes is not None and set(self.boxes) <= one.keys() & two.keys():
            self._add_boxes(number, sample, one, two, self.boxes)

    def _add_boxes(
        self, number: int, sample: Mapping[str, Any], one: Mapping[str, Any], two: Mapping[str, Any], names: BoxOutputs
    ) -> None:
        counts = BoxCounts()
        side_by_side(one, two, names, counts)
        if counts.share is None or (self._detections is not None and counts.share >= self._detections[0]):
            return
        picture = self._picture(sample)
        before, after = (tuple(_boxes(outputs, names, picture)) for outputs in (one, two))
        self._detections = counts.share, Detections(number, before, after, picture)

    def _picture(self, sample: Mapping[str, Any]) -> np.ndarray | None:
        """The image that a model takes."""
        images = [n for n, one in self.features.inputs.items() if one.type.WhichOneof("Type") == "imageType"]
        if not images or images[0] not in sample:
            return None
        array = np.asarray(sample[images[0]])
        if array.ndim == 3 and array.shape[2] in CHANNELS:
            array = array[..., :3] if array.shape[2] > 1 else array[..., 0]
        return array.clip(0, _WHITE).astype(np.uint8) if array.ndim in (2, 3) else None

    def pictures(self) -> list[OutputPicture]:
        found = []
        for name, (_, number, before, after) in self._worst.items():
            one, two = _as_bytes(before, after)
            difference = np.abs(one.astype(np.int16) - two).astype(np.float64)
            gain = max(1.0, _WHITE / max(1.0, float(difference.max())))
            found.append(OutputPicture(name, number, one, two, np.rint(difference * gain).astype(np.uint8), gain))
        return found

    def detections(self) -> list[Detections]:
        """One, or none."""
        return [] if self._detections is None else [self._detections[1]]


def _as_bytes(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Floats from the least of ``before`` to its greatest."""
    if before.dtype == np.uint8:
        return before, after
    low, high = float(before.min()), float(before.max())
    scale = _WHITE / ((high - low) or 1.0)
    one, two = (np.nan_to_num((a.astype(np.float64) - low) * scale).clip(0, _WHITE).round() for a in (before, after))
    return one.astype(np.uint8), two.astype(np.uint8)


def _boxes(outputs: Mapping[str, Any], names: BoxOutputs, picture: np.ndarray | None) -> Iterator[Box]:
    """The most probable ones. Coordinates are shares of the picture, or its pixels."""
    scores = np.asarray(outputs[names.confidence], np.float64)[:_MOST_BOXES]
    height, width = (1.0, 1.0) if picture is None else picture.shape[:2]
    places = pixel_boxes(outputs[names.coordinates][:_MOST_BOXES], width, height) / [width, height, width, height]
    if picture is None and places.size:
        places /= max(1.0, np.abs(places).max())  # pixels of a picture that nobody knows
    for (left, top, wide, high), row in zip(places, scores, strict=True):
        yield Box(left, top, wide, high, f"class {row.argmax()}, {row.max():.0%}")
