"""Folders of images for models that take arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
image = pytest.importorskip("PIL.Image")

from evaluator import mb, program_of, saved  # noqa: E402

from mil_palettize import ConfigError, EvaluationError, compare  # noqa: E402
from mil_palettize.cli.main import main  # noqa: E402
from mil_palettize.torch import open_model  # noqa: E402
from mil_palettize.torch.pixels import pixels_of  # noqa: E402
from mil_palettize.torch.samples import read_samples  # noqa: E402

RNG = np.random.default_rng(1)
HEIGHT, WIDTH = 6, 9
MEAN, SCALE = (120.0, 110.0, 100.0), (0.02, 0.01, 0.05)


def taking(folder: Path, *shape: int) -> Path:
    return saved(program_of(lambda x: mb.mul(x=x, y=np.float32(2), name="y"), [(shape, np.float32)]), folder)


@pytest.fixture
def folder(tmp_path: Path) -> tuple[Path, np.ndarray]:
    (tmp_path / "images").mkdir()
    pixels = RNG.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    image.fromarray(pixels).save(tmp_path / "images" / "a.png")
    return tmp_path / "images", pixels


LAYOUTS: dict[str, Any] = {
    "channels first": ((1, 3, HEIGHT, WIDTH), lambda rgb: rgb.transpose(2, 0, 1)[None]),
    "channels last": ((1, HEIGHT, WIDTH, 3), lambda rgb: rgb[None]),
    "no batch": ((3, HEIGHT, WIDTH), lambda rgb: rgb.transpose(2, 0, 1)),
}


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_pixels_become_what_is_asked(layout: str, folder: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    shape, place = LAYOUTS[layout]
    path, pixels = folder
    (sample,) = read_samples(path, open_model(taking(tmp_path, *shape)), pixels=pixels_of(MEAN, SCALE))
    wanted = np.empty(pixels.shape)
    for i in range(3):
        wanted[..., i] = (pixels[..., i].astype(float) - MEAN[i]) * SCALE[i]
    assert sample["x0"].dtype == np.float32
    assert sample["x0"] == pytest.approx(place(wanted), abs=1e-5)


def test_gray_pictures_of_another_size(folder: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    model = open_model(taking(tmp_path, 1, 1, 4, 4))
    samples = read_samples(folder[0], model, pixels=pixels_of(None, 1 / 255))
    assert samples[0]["x0"].shape == (1, 1, 4, 4)
    assert 0 <= samples[0]["x0"].min() < samples[0]["x0"].max() <= 1
    assert samples.notes[0].endswith("scaled and cut to 4×4")
    with pytest.raises(ConfigError, match="have three numbers, and the model's pictures one channel"):
        read_samples(folder[0], model, pixels=pixels_of(MEAN, None))


def test_commands(folder: tuple[Path, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, pixels = folder
    model = taking(tmp_path, 1, 3, HEIGHT, WIDTH)
    options = ["--inputs", str(path), "--image-mean", "120,110,100", "--image-scale", "0.02"]
    assert main(["run", str(model), *options, "--out", str(tmp_path / "y.npz")]) == 0
    with np.load(tmp_path / "y.npz") as written:
        (found,) = written.values()
    assert found == pytest.approx(2 * 0.02 * (pixels - np.array(MEAN)).transpose(2, 0, 1)[None], abs=1e-4)
    assert main(["compare", str(model), str(model), *options]) == 0
    capsys.readouterr()
    assert main(["run", str(model), "--inputs", str(path)]) == 4
    assert "say with --image-mean and --image-scale what becomes of pixels" in capsys.readouterr().err
    for value in ("1,2", "much"):
        with pytest.raises(SystemExit):
            main(["run", str(model), "--image-mean", value])
    assert main(["run", str(model), "--image-mean", "1"]) == 2
    assert compare(model, model, path, image_scale=0.1).samples == 1


def test_where_they_do_not_belong(folder: tuple[Path, np.ndarray], fixtures: Path, tmp_path: Path) -> None:
    pictured = fixtures / "image_classifier_ios15.mlpackage"
    with pytest.raises(ConfigError, match="is an image, which models scale themselves; leave mean and scale out"):
        compare(pictured, pictured, folder[0], image_mean=1)
    with pytest.raises(ConfigError, match="the inputs are no folder of images; leave their mean and scale out"):
        compare(pictured, pictured, image_mean=1)
    flat = taking(tmp_path, 1, 20)
    with pytest.raises(EvaluationError, match="needs a model with one input that is an image"):
        compare(flat, flat, folder[0], image_mean=1)
    np.save(tmp_path / "x.npy", np.zeros((1, 20), np.float32))
    with pytest.raises(ConfigError, match=r"x\.npy is no folder of images; leave their mean and scale out"):
        compare(flat, flat, tmp_path / "x.npy", image_mean=1)
    with pytest.raises(ConfigError, match=r"the mean of images is \(1, 2\); give one number, or three"):
        compare(flat, flat, folder[0], image_mean=(1, 2))
