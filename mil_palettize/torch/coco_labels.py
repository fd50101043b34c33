"""Boxes that are known to be in pictures, as COCO has them (JSON), and how well models find them.

Figures are those of pycocotools. Format: https://cocodataset.org/#format-data
"""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mil_palettize.errors import ConfigError, EvaluationError, PackageError
from mil_palettize.package.links import refuse_pointer
from mil_palettize.reports.detection_figures import DetectionFigures
from mil_palettize.text import format_count
from mil_palettize.torch.box_matching import BoxOutputs, pixel_boxes
from mil_palettize.torch.pixels import picture_size
from mil_palettize.torch.samples import Samples

_NEEDED = {
    "images": ("id", "width", "height"),
    "annotations": ("image_id", "category_id", "bbox"),
    "categories": ("id",),
}
Entry = Mapping[str, Any]


def is_coco(labels: object) -> bool:
    """By the name of the file."""
    return isinstance(labels, str | Path) and Path(labels).suffix.lower() == ".json"


@dataclass
class CocoLabels:
    """``of_samples``: the image of each sample; ``classes``: the category of each class of the model, None for one that
    the labels do not list: what is found of it does not count. ``notes``: on how they were read."""

    boxes: BoxOutputs
    of_samples: Sequence[Entry]
    annotations: Mapping[Any, Sequence[Entry]]
    categories: Sequence[Entry]
    classes: Sequence[Any]
    notes: Sequence[str] = ()
    _known: list[dict[str, Any]] = field(default_factory=list)
    _found: tuple[list[dict[str, Any]], list[dict[str, Any]]] = field(default_factory=lambda: ([], []))

    def add(self, number: int, sample: Entry, one: Mapping[str, Any], two: Mapping[str, Any]) -> None:
        """What both models give for sample ``number``. Raises EvaluationError for more classes than there are
        categories."""
        image = self.of_samples[number]
        width, height = _size(sample, image)
        for annotation in self.annotations.get(image["id"], ()):
            box = _moved(annotation["bbox"], image, width, height)
            if box[2] > 0 and box[3] > 0:
                crowd = int(annotation.get("iscrowd", 0))
                self._known.append(_entry(len(self._known), number, annotation["category_id"], box, iscrowd=crowd))
        for listed, outputs in zip(self._found, (one, two), strict=True):
            scores = np.asarray(outputs[self.boxes.confidence], np.float64)
            for place, row in zip(pixel_boxes(outputs[self.boxes.coordinates], width, height), scores, strict=True):
                if row.argmax() >= len(self.classes):
                    told = f"the model has {scores.shape[1]} classes, and the labels {len(self.classes)} categories"
                    raise EvaluationError(f"{told}; give labels with the categories of the model")
                category = self.classes[int(row.argmax())]
                if category is not None:
                    listed.append(_entry(len(listed), number, category, place.tolist(), score=float(row.max())))

    def figures(self) -> DetectionFigures:
        (before, before_50), (after, after_50) = (self._precisions(found) for found in self._found)
        return DetectionFigures(len(self.of_samples), len(self._known), before, after, before_50, after_50)

    def _precisions(self, found: list[dict[str, Any]]) -> tuple[float, float]:
        """Over overlaps from 0.5 to 0.95, and at 0.5; 0 where nothing is found."""
        coco, evaluation = _pycocotools()
        images = [{"id": number} for number in range(len(self.of_samples))]
        sides = []
        with contextlib.redirect_stdout(io.StringIO()):  # which it tells of each step
            for annotations in (self._known, found):
                side = coco()
                side.dataset = {"images": images, "categories": list(self.categories), "annotations": annotations}
                side.createIndex()
                sides.append(side)
            judged = evaluation(*sides, "bbox")
            judged.evaluate()
            judged.accumulate()
            judged.summarize()
        return max(0.0, float(judged.stats[0])), max(0.0, float(judged.stats[1]))


def coco_labels(source: Path, samples: Samples, boxes: BoxOutputs | None, classes: Sequence[str]) -> CocoLabels:
    """Of a file. ``boxes``: what the model gives; ``classes``: its classes by name, empty where they have none: then
    they are the categories in the order of their numbers. Pictures are found by their paths or names; samples that are
    none are the images of the file in their order.

    Raises PackageError for a file that is none, EvaluationError for a model without boxes and for labels of other
    samples or classes, ConfigError without pycocotools.
    """
    if boxes is None:
        raise EvaluationError(
            f"{source} is of boxes, and the model has no suppression of boxes; give labels of classes"
        )
    _pycocotools()
    found = _read(source)
    known = {category["id"] for category in found["categories"]}
    other = [a["category_id"] for a in found["annotations"] if a["category_id"] not in known]
    if other:
        raise PackageError(f"cannot read {source}: a box is of category {other[0]!r}, which it does not list")
    images, notes = _images(source, found["images"], samples)
    annotations: dict[Any, list[Entry]] = {}
    for annotation in found["annotations"]:
        annotations.setdefault(annotation["image_id"], []).append(annotation)
    if not any(annotations.get(image["id"]) for image in images):
        raise EvaluationError(f"{source} has no box in any of {format_count(len(samples), 'sample')}")
    ids = _classes(source, found["categories"], classes)
    unlisted = sum(one is None for one in ids)
    if unlisted:
        told = f"{unlisted} of {len(ids)} classes of the model are not in {source}"
        notes = [*notes, f"{told}: what is found of these does not count"]
    return CocoLabels(boxes, images, annotations, found["categories"], ids, notes)


def _read(source: Path) -> dict[str, list[dict[str, Any]]]:
    refuse_pointer(source)
    try:
        found = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        told = " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())
        raise PackageError(f"cannot read {source}: {told}; it must be JSON of boxes, as COCO has it") from error
    for part, keys in _NEEDED.items():
        entries = found.get(part) if isinstance(found, dict) else None
        if not isinstance(entries, list):
            raise PackageError(
                f"cannot read {source}: it has no list of {part!r}; it must be JSON of boxes, as COCO has it"
            )
        for number, entry in enumerate(entries):
            lacking = [key for key in keys if not isinstance(entry, dict) or key not in entry]
            if lacking:
                raise PackageError(f"cannot read {source}: number {number} of {part!r} has no {lacking[0]!r}")
    told = _wrong(found)
    if told:
        raise PackageError(f"cannot read {source}: {told}")
    return dict(found)


def _wrong(found: Mapping[str, Sequence[Entry]]) -> str:
    """What is wrong with the values of a file whose parts are all there, "" where nothing is."""
    for part, keys in _NEEDED.items():
        names = [key for key in keys if key.endswith("id")]
        for wrong in (entry[name] for entry in found[part] for name in names if type(entry[name]) is not int):
            return f"an id of {part!r} is {str(wrong)[:40]!r}; it must be a whole number"
    for part in ("images", "categories"):
        ids = [entry["id"] for entry in found[part]]
        if len(set(ids)) < len(ids):
            twice = next(one for one in ids if ids.count(one) > 1)
            return f"several of {part!r} have the id {twice}; give each its own"
    for image in found["images"]:
        if not all(_is_number(image[side]) and image[side] > 0 for side in ("width", "height")):
            size = f"{str(image['width'])[:20]}×{str(image['height'])[:20]}"
            return f"an image is of {size} (width × height); both must be above 0"
    for annotation in found["annotations"]:
        box, crowd = annotation["bbox"], annotation.get("iscrowd", 0)
        if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box)) and min(box[2:]) >= 0):
            return f"a box is {str(box)[:40]}; it must be [left, top, width, height]"
        if crowd not in (0, 1):
            return f"iscrowd of a box is {str(crowd)[:40]}; it must be 0 or 1"
    return ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _images(source: Path, images: Sequence[Entry], samples: Samples) -> tuple[list[Entry], list[str]]:
    """The one of each sample, and what is to be said."""
    if not samples.names:
        if len(images) != len(samples):
            told = f"{format_count(len(images), 'image')} for {format_count(len(samples), 'sample')}"
            raise EvaluationError(f"{source} has {told}; give one for each, in their order")
        return list(images), []
    named = {str(image.get("file_name")): image for image in images}
    found = [named.get(name, named.get(PurePosixPath(name).name)) for name in samples.names]
    lacking = [name for name, image in zip(samples.names, found, strict=True) if image is None]
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise EvaluationError(f"{source} lists no image {lacking[0]}{more}; each picture needs one")
    left = len(images) - len({image["id"] for image in found if image is not None})
    notes = [f"{format_count(left, 'image')} of {source} left out: not among the samples"] if left else []
    return [image for image in found if image is not None], notes


def _classes(source: Path, categories: Sequence[Entry], classes: Sequence[str]) -> list[Any]:
    ids = sorted(category["id"] for category in categories)
    named = {str(category.get("name")): category["id"] for category in categories}
    if classes and all(name in named for name in classes):
        return [named[name] for name in classes]
    if classes and named.keys() <= set(classes):
        return [named.get(name) for name in classes]
    if classes and len(ids) != len(classes):
        unknown = next((name for name in classes if name not in named), classes[0])
        told = f"{format_count(len(ids), 'category').replace('categorys', 'categories')}, and the model {len(classes)}"
        raise EvaluationError(f"{source} has {told} classes, such as {unknown!r}; give those of the model")
    return ids


def _size(sample: Entry, image: Entry) -> tuple[int, int]:
    """Width and height of the picture that the model got: of bytes, or an array of colours; those of the image itself
    where the model takes something else."""
    for value in sample.values():
        array = np.asarray(value)
        shape = array.shape
        if array.dtype == np.uint8 and len(shape) in (2, 3):
            return shape[1], shape[0]
        height, width, channels = picture_size(shape)
        if channels:
            return width, height
    return int(image["width"]), int(image["height"])


def _moved(box: Sequence[float], image: Entry, width: int, height: int) -> list[float]:
    """A box of ``image`` in the picture that the model got: scaled until it covers that, and cut at the middle."""
    scale = max(width / image["width"], height / image["height"])
    left, top = (image["width"] * scale - width) / 2, (image["height"] * scale - height) / 2
    x, y = box[0] * scale - left, box[1] * scale - top
    right, bottom = min(x + box[2] * scale, width), min(y + box[3] * scale, height)
    x, y = max(x, 0.0), max(y, 0.0)
    return [x, y, right - x, bottom - y]


def _entry(number: int, image: int, category: Any, box: list[float], **others: Any) -> dict[str, Any]:
    area = box[2] * box[3]
    return {
        "id": number + 1,
        "image_id": image,
        "category_id": category,
        "bbox": box,
        "area": area,
        "iscrowd": 0,
    } | others


def _pycocotools() -> tuple[Any, Any]:
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise ConfigError("labels of boxes need pycocotools: pip install 'mil-palettize[detection]'") from error
    return COCO, COCOeval
