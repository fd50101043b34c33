"""Images and boxes that a page shows: of the sample that differs most, as pictures that others read."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import coremltools as ct
import numpy as np
import pytest

torch = pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")

from mil_palettize import OpPalettizerConfig, OptimizationConfig, compare, palettize_package  # noqa: E402
from mil_palettize.reports.pictures import data_uri  # noqa: E402
from mil_palettize.torch.box_matching import BoxOutputs  # noqa: E402
from mil_palettize.torch.evaluator.model_pipeline import open_model  # noqa: E402
from mil_palettize.torch.made_up_inputs import plausible_inputs  # noqa: E402
from mil_palettize.torch.picture_keeper import PictureKeeper  # noqa: E402

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(7, 5), (6, 9, 3), (1, 1), (800, 30, 3)])
def test_pictures_are_png(shape: tuple[int, ...]) -> None:
    pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
    head, _, data = data_uri(pixels).partition(",")
    assert head == "data:image/png;base64"
    read = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert np.array_equal(read, pixels[::3, ::3] if shape[0] == 800 else pixels)


class Style(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convs = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.Conv2d(16, 3, 3, padding=1))

    def forward(self, x: Any) -> Any:
        return torch.sigmoid(self.convs(x / 255)) * 255


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("style")
    model = ct.convert(
        torch.jit.trace(Style().eval(), torch.zeros(1, 3, 24, 32)), inputs=[ct.ImageType("photo", (1, 3, 24, 32))],
        outputs=[ct.ImageType("painting")], minimum_deployment_target=ct.target.iOS16, skip_model_load=True,
    )  # fmt: skip
    model.save(str(folder / "style.mlpackage"))
    config = OptimizationConfig(OpPalettizerConfig(nbits=2, weight_threshold=10))
    palettize_package(folder / "style.mlpackage", folder / "small.mlpackage", config)
    return folder / "style.mlpackage", folder / "small.mlpackage"


def test_images_of_the_sample_that_differs_most(pair: tuple[Path, Path]) -> None:
    one, two = (open_model(path) for path in pair)
    samples = plausible_inputs(one, 5, 2)
    outputs = [[module.predict(sample)["painting"] for sample in samples] for module in (one, two)]
    errors = [np.square(a.astype(float) - b).mean() for a, b in zip(*outputs, strict=True)]
    worst = int(np.argmax(errors))
    (picture,) = compare(*pair, samples).pictures
    assert (picture.name, picture.sample) == ("painting", worst)
    assert np.array_equal(picture.before, outputs[0][worst])
    assert np.array_equal(picture.after, outputs[1][worst])
    difference = np.abs(outputs[0][worst].astype(int) - outputs[1][worst])
    assert picture.gain == pytest.approx(255 / difference.max())
    assert picture.difference.max() == 255
    np.testing.assert_allclose(picture.difference, difference * picture.gain, atol=0.5)
    page = compare(*pair, samples).to_html()
    assert page.count("<img ") == 3
    assert f"sample {worst + 1}, the one that differs most" in page


def test_boxes_of_the_sample_that_has_least_in_common() -> None:
    empty = SimpleNamespace(inputs={}, image_output=lambda name: None)
    keeper = PictureKeeper(empty, BoxOutputs("places", "scores"))
    boxes = np.array([[0.5, 0.5, 0.2, 0.4], [0.2, 0.3, 0.1, 0.1]])
    scores = np.array([[0.1, 0.8], [0.6, 0.2]])
    same = {"places": boxes, "scores": scores}
    for number, kept in enumerate((2, 1, 2)):
        keeper.add(number, {}, same, {"places": boxes[:kept], "scores": scores[:kept]})
    (found,) = keeper.detections()
    assert (found.sample, len(found.before), len(found.after), found.picture) == (1, 2, 1, None)
    first = found.before[0]
    assert (first.left, first.top, first.width, first.height) == pytest.approx((0.4, 0.3, 0.2, 0.4))
    assert first.text == "class 1, 80%"


def test_boxes_in_pixels_are_shares_of_the_picture(fixtures: Path) -> None:
    model = open_model(fixtures / "image_classifier_ios15.mlpackage")
    keeper = PictureKeeper(model.features, BoxOutputs("places", "scores"))
    (name,) = model.features.inputs
    outputs = {"places": np.array([[20.0, 10.0, 8.0, 4.0]]), "scores": np.ones((1, 1))}
    keeper.add(0, {name: np.zeros((20, 40, 3), np.uint8)}, outputs, outputs)
    (found,) = keeper.detections()
    assert found.picture is not None
    assert found.picture.shape == (20, 40, 3)
    (box,) = found.before
    assert (box.left, box.top, box.width, box.height) == pytest.approx((0.4, 0.4, 0.2, 0.2))
