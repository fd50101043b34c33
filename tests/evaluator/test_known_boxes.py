"""Mean average precision with labels as COCO has them: figures of a plain computation, places, files that are none."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pycocotools", reason="pycocotools is not installed: pip install '.[detection]'")

from mil_palettize import EvaluationError, PackageError, compare  # noqa: E402
from mil_palettize.cli.main import main  # noqa: E402
from mil_palettize.torch.box_matching import BoxOutputs, overlaps, pixel_boxes  # noqa: E402
from mil_palettize.torch.coco_labels import coco_labels  # noqa: E402
from mil_palettize.torch.evaluator.model_pipeline import open_model  # noqa: E402
from mil_palettize.torch.made_up_inputs import plausible_inputs  # noqa: E402
from mil_palettize.torch.samples import Samples  # noqa: E402

RNG = np.random.default_rng(4)
NAMES = BoxOutputs("places", "scores")
SIZE = 200
CLASSES = 3
Outputs = dict[str, np.ndarray]


def outputs_of(boxes: np.ndarray, classes: np.ndarray, scores: np.ndarray) -> Outputs:
    rows = np.full((len(boxes), CLASSES), 0.001)
    rows[np.arange(len(boxes)), classes] = scores
    return {"places": boxes, "scores": rows}


def made_up(images: int, noise: float) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[Outputs]]:
    """Boxes (middle, size, in shares) with their classes, and what a detector finds of them."""
    truth, found = [], []
    for _ in range(images):
        count = int(RNG.integers(2, 7))
        boxes = np.column_stack([RNG.uniform(0.2, 0.8, (count, 2)), RNG.uniform(0.1, 0.3, (count, 2))])
        classes = RNG.integers(0, CLASSES, count)
        moved = boxes + noise * RNG.standard_normal(boxes.shape)
        extra = np.column_stack([RNG.uniform(0.2, 0.8, (2, 2)), np.full((2, 2), 0.2)])
        wrong = np.where(RNG.uniform(size=count) < 0.2, (classes + 1) % CLASSES, classes)
        truth.append((boxes, classes))
        both = np.concatenate([moved, extra]), np.concatenate([wrong, RNG.integers(0, CLASSES, 2)])
        found.append(outputs_of(*both, RNG.uniform(0.1, 0.99, count + 2)))
    return truth, found


def precision(truth: list[tuple[np.ndarray, np.ndarray]], found: list[Outputs], least: float) -> float:
    """The mean over classes of the average precision: one detection after the other, as COCO defines it."""
    averages = []
    for label in range(CLASSES):
        total = sum(int((classes == label).sum()) for _, classes in truth)
        if not total:
            continue
        ranked = [
            (outputs["scores"][i].max(), number, outputs["places"][i])
            for number, outputs in enumerate(found)
            for i in range(len(outputs["places"]))
            if outputs["scores"][i].argmax() == label
        ]
        taken: set[tuple[int, int]] = set()
        right = []
        for _, number, place in sorted(ranked, key=lambda item: -item[0]):
            boxes, classes = truth[number]
            free = [i for i in range(len(boxes)) if classes[i] == label and (number, i) not in taken]
            shared = {i: overlaps(place[None], boxes[i : i + 1])[0, 0] for i in free}
            best = max(shared, key=lambda i: shared[i], default=None)
            hit = best is not None and shared[best] >= least
            if hit and best is not None:
                taken.add((number, best))
            right.append(hit)
        hits = np.cumsum(right)
        recalls, precisions = hits / total, hits / np.arange(1, len(right) + 1)
        points = [precisions[recalls >= r - 1e-12].max(initial=0) for r in np.linspace(0, 1, 101)]
        averages.append(np.mean(points))
    return float(np.mean(averages))


def coco(truth: list[tuple[np.ndarray, np.ndarray]], folder: Path, **changes: Any) -> Path:
    annotations = [
        {"id": 1, "image_id": 7 * n, "category_id": 10 + int(c), "bbox": box.tolist()}
        for n, (boxes, classes) in enumerate(truth)
        for box, c in zip(pixel_boxes(boxes, SIZE, SIZE), classes, strict=True)
    ]
    whole = {
        "images": [{"id": 7 * n, "width": SIZE, "height": SIZE, "file_name": f"{n}.png"} for n in range(len(truth))],
        "categories": [{"id": 10 + c, "name": f"kind {c}"} for c in range(CLASSES)],
        "annotations": annotations,
    }
    (folder / "boxes.json").write_text(json.dumps(whole | changes))
    return folder / "boxes.json"


def test_figures_are_those_of_a_plain_computation(tmp_path: Path) -> None:
    truth, before = made_up(12, 0.004)
    after = [{name: array.copy() for name, array in one.items()} for one in before]
    for one in after:
        one["places"] += 0.02 * RNG.standard_normal(one["places"].shape)
    labels = coco_labels(coco(truth, tmp_path), Samples([{}] * 12), NAMES, [])
    for number in range(12):
        labels.add(number, {}, before[number], after[number])
    figures = labels.figures()
    assert (figures.pictures, figures.boxes) == (12, sum(len(boxes) for boxes, _ in truth))
    for found, whole, at_half in (
        (before, figures.map_before, figures.map_50_before),
        (after, figures.map_after, figures.map_50_after),
    ):
        levels = [precision(truth, found, least) for least in np.linspace(0.5, 0.95, 10)]
        assert whole == pytest.approx(np.mean(levels), abs=1e-6)
        assert at_half == pytest.approx(levels[0], abs=1e-6)
    assert figures.map_before > figures.map_after > 0


def test_labels_of_some_classes_of_the_model(tmp_path: Path) -> None:
    """Found boxes of the others do not count, as pycocotools has it."""
    truth, found = made_up(8, 0.004)
    whole = coco_labels(coco(truth, tmp_path), Samples([{}] * 8), NAMES, [])
    listed = {whole.categories[i]["name"]: i for i in (1, 2)}
    some = json.loads((tmp_path / "boxes.json").read_text())
    some["categories"] = [category for category in some["categories"] if category["name"] in listed]
    ids = [category["id"] for category in some["categories"]]
    some["annotations"] = [one for one in some["annotations"] if one["category_id"] in ids]
    (tmp_path / "boxes.json").write_text(json.dumps(some))
    names = [category["name"] for category in sorted(whole.categories, key=lambda one: one["id"])]
    labels = coco_labels(tmp_path / "boxes.json", Samples([{}] * 8), NAMES, names)
    assert len(labels.notes) == 1
    assert labels.notes[0].startswith("1 of 3 classes of the model are not in ")
    for number in range(8):
        labels.add(number, {}, found[number], found[number])
    left = next(i for i, name in enumerate(names) if name not in listed)
    kept = [(boxes[classes != left], classes[classes != left]) for boxes, classes in truth]
    levels = [precision(kept, found, least) for least in np.linspace(0.5, 0.95, 10)]
    assert labels.figures().map_before == pytest.approx(np.mean(levels), abs=1e-3)  # thresholds are no exact shares


def test_boxes_follow_the_picture(tmp_path: Path) -> None:
    """One of 200×200 that the model gets as 100×50 is scaled by a half and loses a quarter above and below."""
    truth = [(np.array([[0.5, 0.5, 0.2, 0.1], [0.5, 0.1, 0.1, 0.1]]), np.array([0, 1]))]
    labels = coco_labels(coco(truth, tmp_path), Samples([{}], names=["photos/0.png"]), NAMES, ["kind 1", "kind 0"])
    assert labels.classes == [11, 10]
    seen = outputs_of(np.array([[0.5, 0.5, 0.2, 0.2]]), np.array([1]), np.array([0.9]))
    labels.add(0, {"image": np.zeros((50, 100, 3), np.uint8)}, seen, seen)
    figures = labels.figures()  # the second box is no longer in the picture
    assert (figures.boxes, figures.map_before, figures.map_after) == (1, pytest.approx(1), pytest.approx(1))


def test_a_package(fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = fixtures / "detector_ios16.mlpackage"
    module = open_model(path)
    assert module.boxes is not None
    samples = plausible_inputs(module, 4)
    whole: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": []}
    classes = 0
    for number, sample in enumerate(samples):
        outputs = module.predict(sample)
        scores = outputs[module.boxes.confidence]
        classes = scores.shape[1]
        whole["images"].append({"id": number, "width": SIZE, "height": SIZE})
        for box, row in zip(pixel_boxes(outputs[module.boxes.coordinates], SIZE, SIZE), scores, strict=True):
            entry = {"image_id": number, "category_id": int(row.argmax()), "bbox": box.tolist()}
            whole["annotations"] += [entry] if box[2:].min() > 0 else []  # made-up weights give others too
    whole["categories"] = [{"id": label} for label in range(classes)]
    (tmp_path / "boxes.json").write_text(json.dumps(whole))
    found = compare(path, path, samples, labels=tmp_path / "boxes.json")
    assert found.detected is not None
    assert found.detected.boxes <= len(whole["annotations"])
    assert found.detected.map_before == found.detected.map_after
    assert found.failures(max_map_loss=0) == []
    assert "mAP of" in found.to_text()
    assert "mAP of" in found.to_html()
    command = ["compare", str(path), str(path), "--random", "4"]
    assert main([*command, "--labels", str(tmp_path / "boxes.json"), "--max-map-loss", "0%", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["detected"]["map_before"] == found.detected.map_before
    assert main([*command, "--max-map-loss", "1%"]) == 1
    assert "no boxes are known to judge by; give --labels with a .json file" in capsys.readouterr().err


def test_labels_that_do_not_fit(tmp_path: Path, fixtures: Path) -> None:
    truth, _ = made_up(2, 0.0)
    two = Samples([{}] * 2)
    good = json.loads(coco(truth, tmp_path).read_text())
    wrong = [
        ({"categories": good["categories"][:1]}, PackageError, "a box is of category 1[12], which it does not list"),
        ({"annotations": [{"image_id": 0}]}, PackageError, "number 0 of 'annotations' has no 'category_id'"),
        (
            {"annotations": [{"image_id": 0, "category_id": 10, "bbox": [1, 2]}]},
            PackageError,
            r"it must be \[left, top",
        ),
        ({"images": {}}, PackageError, "it has no list of 'images'"),
        (
            {"images": [{**one, "id": 0} for one in good["images"]]},
            PackageError,
            "of 'images' have the id 0; give each",
        ),
        ({"images": [{**one, "id": "a"} for one in good["images"]]}, PackageError, "an id of 'images' is 'a'; it must"),
        ({"images": [{**one, "width": 0} for one in good["images"]]}, PackageError, "an image is of 0×200"),
        *(
            ({"annotations": [{**good["annotations"][0], **change}]}, PackageError, message)
            for change, message in (
                ({"bbox": [0, 0, -5, 3]}, r"a box is \[0, 0, -5, 3\]; it must be"),
                ({"bbox": [0, 0, math.nan, 3]}, r"a box is \[0, 0, nan, 3\]; it must be"),
                ({"iscrowd": "no"}, "iscrowd of a box is no; it must be 0 or 1"),
            )
        ),
        ({"images": good["images"][:1]}, EvaluationError, "has 1 image for 2 samples"),
        ({"annotations": []}, EvaluationError, "has no box in any of 2 samples"),
    ]
    for changes, kind, told in wrong:
        with pytest.raises(kind, match=told):
            coco_labels(coco(truth, tmp_path, **changes), two, NAMES, [])
    path = coco(truth, tmp_path)
    with pytest.raises(EvaluationError, match=r"lists no image c\.png and 1 more; each picture needs one"):
        coco_labels(path, Samples([{}] * 3, names=["1.png", "c.png", "d.png"]), NAMES, [])
    with pytest.raises(EvaluationError, match="has 3 categories, and the model 2 classes, such as 'a'"):
        coco_labels(path, two, NAMES, ["a", "b"])
    with pytest.raises(EvaluationError, match="is of boxes, and the model has no suppression of boxes"):
        compare(*[fixtures / "conv_fp16_ios18.mlpackage"] * 2, labels=path)
    path.write_text("[1, 2")
    with pytest.raises(PackageError, match="it must be JSON of boxes, as COCO has it"):
        coco_labels(path, two, NAMES, [])
