"""Detectors: boxes after a suppression are compared with those they are, whatever row they lie in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.proto import Model_pb2

torch = pytest.importorskip("torch")

from mil_palettize import OpPalettizerConfig, OptimizationConfig, compare, palettize_package  # noqa: E402
from mil_palettize.torch import open_model  # noqa: E402
from mil_palettize.torch.box_matching import BoxCounts, BoxOutputs, overlaps, side_by_side  # noqa: E402
from mil_palettize.torch.made_up_inputs import plausible_inputs  # noqa: E402

BOXES, CLASSES, WIDTH = 32, 5, 64
NAMES = BoxOutputs("coordinates", "confidence")
RNG = np.random.default_rng(8)


def overlap_of(one: np.ndarray, two: np.ndarray) -> float:
    """By counting the points of a fine grid."""
    x, y = np.meshgrid(*[(np.arange(1000) + 0.5) / 1000] * 2)
    inside = [(abs(x - b[0]) < b[2] / 2) & (abs(y - b[1]) < b[3] / 2) for b in (one, two)]
    union = (inside[0] | inside[1]).sum()
    return float((inside[0] & inside[1]).sum() / union) if union else 0.0


def test_overlaps() -> None:
    one, two = (np.column_stack([RNG.uniform(0.3, 0.7, (6, 2)), RNG.uniform(0.05, 0.5, (6, 2))]) for _ in range(2))
    found = overlaps(one, two)
    wanted = [[overlap_of(a, b) for b in two] for a in one]
    assert found == pytest.approx(np.array(wanted), abs=0.01)
    assert overlaps(one, one).diagonal() == pytest.approx(1)
    assert overlaps(np.zeros((1, 4)), np.zeros((1, 4))) == 0


def detections(count: int) -> dict[str, Any]:
    boxes = np.column_stack([np.linspace(0.1, 0.9, count), np.full(count, 0.5), np.full((count, 2), 0.05)])
    scores = np.full((count, CLASSES), 0.01)
    scores[np.arange(count), RNG.integers(0, CLASSES, count)] = RNG.uniform(0.3, 0.9, count)
    return {"coordinates": boxes, "confidence": scores, "other": "kept"}


def test_order_is_no_difference() -> None:
    one, counts = detections(9), BoxCounts()
    order = RNG.permutation(9)
    two = {"coordinates": one["coordinates"][order], "confidence": one["confidence"][order], "other": "kept"}
    first, second = side_by_side(one, two, NAMES, counts)
    for name in NAMES:
        assert np.array_equal(first[name], second[name])
        assert np.array_equal(first[name], one[name])
    assert (counts, first["other"]) == (BoxCounts(9, 0, 0), "kept")
    assert counts.note() == "Boxes are matched by class and place: 9 of 9 found again, none lost or new."


def test_a_detector_is_itself(fixtures: Path) -> None:
    """Its made-up boxes have no size to speak of, some less than none."""
    package = fixtures / "detector_ios16.mlpackage"
    found = compare(package, package)
    assert [output.agreement for output in found.outputs] == [1.0, 1.0]
    assert found.snr_db == np.inf


def test_boxes_that_one_lacks() -> None:
    one, counts = detections(4), BoxCounts()
    moved = {name: one[name].copy() for name in NAMES}
    moved["coordinates"][1, 0] += 0.04  # overlaps by a ninth
    moved["confidence"][2] = np.roll(moved["confidence"][2], 1)  # is another class
    first, second = side_by_side(one, moved, NAMES, counts)
    assert counts == BoxCounts(matched=2, lost=2, new=2)
    rows = one["coordinates"]
    assert np.array_equal(first["coordinates"], [rows[0], rows[3], rows[1], rows[2], np.zeros(4), np.zeros(4)])
    assert np.array_equal(
        second["coordinates"],
        [rows[0], rows[3], np.zeros(4), np.zeros(4), moved["coordinates"][1], moved["coordinates"][2]],
    )
    assert counts.note().endswith("2 of 4 found again, 2 lost, 2 new; those count as zeros.")
    empty = {name: one[name][:0] for name in NAMES}
    first, second = side_by_side(one, empty, NAMES, BoxCounts())
    assert not second["coordinates"].any()
    assert BoxCounts().note() == ""


class Head(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scores, self.boxes = torch.nn.Linear(WIDTH, BOXES * CLASSES), torch.nn.Linear(WIDTH, BOXES * 4)
        places = torch.linspace(0, 0.9, BOXES), torch.full((BOXES,), 0.5), *[torch.full((BOXES,), 0.005)] * 2
        self.register_buffer("places", torch.stack(places, 1))

    def forward(self, x: Any) -> Any:
        moved = torch.sigmoid(self.boxes(x)).view(BOXES, 4) * 0.002 + self.places
        return torch.sigmoid(self.scores(x)).view(BOXES, CLASSES), moved


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As exporters make them: thresholds are required inputs."""
    model = ct.convert(
        torch.jit.trace(Head().eval(), torch.zeros(1, WIDTH)), inputs=[ct.TensorType("x", shape=(1, WIDTH))],
        outputs=[ct.TensorType("confidence"), ct.TensorType("coordinates")],
        minimum_deployment_target=ct.target.iOS16, skip_model_load=True,
    )  # fmt: skip
    suppression = Model_pb2.Model(specificationVersion=7)
    stage = suppression.nonMaximumSuppression
    for name, width in (("confidence", CLASSES), ("coordinates", 4)):
        for features in (suppression.description.input, suppression.description.output):
            array = features.add(name=name).type.multiArrayType
            array.dataType = array.FLOAT32
            array.shape.extend([BOXES, width])
        setattr(stage, f"{name}InputFeatureName", name)
        setattr(stage, f"{name}OutputFeatureName", name)
    stage.iouThresholdInputFeatureName, stage.confidenceThresholdInputFeatureName = (
        "iouThreshold",
        "confidenceThreshold",
    )
    stage.iouThreshold, stage.confidenceThreshold = 0.45, 0.6
    stage.stringClassLabels.vector.extend(map(str, range(CLASSES)))
    kinds = ct.models.datatypes
    inputs = [("x", kinds.Array(1, WIDTH)), ("iouThreshold", kinds.Double()), ("confidenceThreshold", kinds.Double())]
    whole = ct.models.pipeline.Pipeline(inputs, ["confidence", "coordinates"])
    whole.add_model(model)
    whole.add_model(ct.models.MLModel(suppression, skip_model_load=True))
    whole.spec.specificationVersion = 7
    for i, feature in enumerate(suppression.description.output):
        whole.spec.description.output[i].CopyFrom(feature)
    path = tmp_path_factory.mktemp("detector") / "detector.mlpackage"
    ct.models.MLModel(whole.spec, weights_dir=model.weights_dir, skip_model_load=True).save(str(path))
    return path


def test_thresholds_that_are_left_out_are_those_of_the_stage(detector: Path) -> None:
    module = open_model(detector)
    (sample,) = plausible_inputs(module, 1)
    assert set(sample) == {"x"}
    given = module.predict({**sample, "iouThreshold": 0.45, "confidenceThreshold": 0.6})
    for name, array in module.predict(sample).items():
        assert np.array_equal(array, given[name])
    assert len(module.predict({**sample, "confidenceThreshold": 0.0})["confidence"]) > len(given["confidence"])


def test_a_detector_and_its_palette(detector: Path, tmp_path: Path) -> None:
    """Boxes that change places count as what they are."""
    small = tmp_path / "small.mlpackage"
    palettize_package(detector, small, OptimizationConfig(OpPalettizerConfig(nbits=6, weight_threshold=100)))
    samples = plausible_inputs(open_model(detector), 6)
    found = {output.name: output for output in compare(detector, small, samples).outputs}
    signal = noise = 0.0
    swapped, counts = False, [0, 0]
    for sample in samples:
        a, b = (open_model(path).predict(sample) for path in (detector, small))
        scores, others = (one["confidence"].astype(np.float64) for one in (a, b))
        apart = np.abs(a["coordinates"][:, None] - b["coordinates"][None]).sum(-1)
        near = {i: int(j) for i, j in enumerate(apart.argmin(1)) if apart[i, j] < 0.01}
        same = {i: j for i, j in near.items() if scores[i].argmax() == others[j].argmax()}
        signal += (scores**2).sum()
        noise += sum(((scores[i] - others[j]) ** 2).sum() for i, j in same.items())
        noise += (np.delete(scores, list(same), axis=0) ** 2).sum()
        noise += (np.delete(others, list(same.values()), axis=0) ** 2).sum()
        swapped |= any(i != j for i, j in same.items())
        counts[0] += len(same)
        counts[1] += len(scores) + len(others) - len(same)
    assert swapped
    assert found["confidence"].agreement == found["coordinates"].agreement == counts[0] / counts[1]
    assert found["confidence"].snr_db == pytest.approx(10 * np.log10(signal / noise), abs=1e-3)


def test_notes_count_boxes(detector: Path, fixtures: Path) -> None:
    (note,) = [note for note in compare(detector, detector, random=3).notes if "Boxes are matched" in note]
    assert note.endswith("found again, none lost or new.")
    path = fixtures / "detector_ios16.mlpackage"
    assert compare(path, path, random=1).outputs
