"""Folders of images for models that take arrays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest

torch = pytest.importorskip("torch")
image = pytest.importorskip("PIL.Image")

from evaluator import mb, program_of, saved  # noqa: E402

from mil_palettize import ConfigError, EvaluationError, PackageError, compare  # noqa: E402
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
    with pytest.raises(ConfigError, match="are of pictures, and these are made-up samples; leave them out"):
        compare(pictured, pictured, image_mean=1)
    flat = taking(tmp_path, 1, 20)
    with pytest.raises(EvaluationError, match="needs a model with one input that is an image"):
        compare(flat, flat, folder[0], image_mean=1)
    np.save(tmp_path / "x.npy", np.zeros((1, 20), np.float32))
    with pytest.raises(ConfigError, match=r"x\.npy holds no pictures, which image mean and scale are of"):
        compare(flat, flat, tmp_path / "x.npy", image_mean=1)
    with pytest.raises(ConfigError, match=r"the mean of images is \(1, 2\); give one number, or three"):
        compare(flat, flat, folder[0], image_mean=(1, 2))
    for wrong in ("much", {}, [[1, 2, 3]], [1, None, 3], ["a"]):
        with pytest.raises(ConfigError, match=r"the scale of images is .*; give one number, or three"):
            compare(flat, flat, folder[0], image_scale=wrong)


def test_a_picture_and_lists_of_pictures(folder: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    path, pixels = folder
    model = open_model(taking(tmp_path, 1, 3, HEIGHT, WIDTH))
    other = RNG.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    image.fromarray(other).save(path / "b.bmp")
    (path / "c.png").write_bytes(b"no picture")
    wanted = {name: (p * 0.5).transpose(2, 0, 1)[None] for name, p in (("a.png", pixels), ("b.bmp", other))}
    (single,) = read_samples(path / "b.bmp", model, pixels=pixels_of(None, 0.5))
    assert single["x0"] == pytest.approx(wanted["b.bmp"])
    (tmp_path / "some.txt").write_text("images/b.bmp\n\nimages/c.png\nimages/a.png\n")
    listed = read_samples(tmp_path / "some.txt", model, pixels=pixels_of(None, 0.5))
    assert listed.names == ["images/b.bmp", "images/a.png"]
    for sample, name in zip(listed, ("b.bmp", "a.png"), strict=True):
        assert sample["x0"] == pytest.approx(wanted[name])
    assert listed.notes == [f"1 image of {tmp_path / 'some.txt'} left out, cannot be read: images/c.png"]
    (tmp_path / "some.txt").write_text("images/a.png\nimages/d.png")
    with pytest.raises(PackageError, match=r"some\.txt lists 'images/d\.png', and there is no such file"):
        read_samples(tmp_path / "some.txt", model, pixels=pixels_of(None, 1))
    for line in ("~nobody-of-this-name/a.png", "a" * 5000):
        (tmp_path / "some.txt").write_text(line)
        with pytest.raises(PackageError, match=r"some\.txt lists '.{1,210}', and there is no such file"):
            read_samples(tmp_path / "some.txt", model, pixels=pixels_of(None, 1))
    with pytest.raises(PackageError, match=r"c\.png has no picture that can be read"):
        read_samples(path / "c.png", model, pixels=pixels_of(None, 1))


def test_samples_that_are_no_pictures_refuse_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = taking(tmp_path, 1, 4)
    (tmp_path / "own.py").write_text("import numpy\ndef samples():\n    yield numpy.zeros((1, 4), numpy.float32)\n")
    np.savez(tmp_path / "several.npz", x0=np.zeros((3, 2, 1, 4), np.float32))
    for given in (["--inputs", f"{tmp_path / 'own.py'}:samples"], ["--sequence", str(tmp_path / "several.npz")]):
        assert main(["compare", str(model), str(model), *given]) == 0
        capsys.readouterr()
        assert main(["compare", str(model), str(model), *given, "--image-scale", "2"]) == 2
        assert "holds no pictures, which image mean and scale are of" in capsys.readouterr().err


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.last = torch.nn.Conv2d(3, 48, 3), torch.nn.Linear(48, 64)

    def forward(self, x: Any) -> Any:
        return self.last(torch.relu(self.conv(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A package, a folder of pictures, and the same as the arrays that they become."""
    root = tmp_path_factory.mktemp("network")
    model = ct.convert(
        torch.jit.trace(Net().eval(), torch.zeros(1, 3, HEIGHT, WIDTH)),
        inputs=[ct.TensorType("x", (1, 3, HEIGHT, WIDTH))],
        minimum_deployment_target=ct.target.iOS16, skip_model_load=True,
    )  # fmt: skip
    model.save(str(root / "net.mlpackage"))
    (root / "images").mkdir()
    arrays = []
    for i in range(10):
        pixels = RNG.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        image.fromarray(pixels).save(root / "images" / f"{i}.png")
        arrays.append(((pixels - 120.0) * 0.02).transpose(2, 0, 1).astype(np.float32))
    np.savez(root / "x.npz", x=np.stack(arrays)[:, None])
    return root / "net.mlpackage", root / "images", root / "x.npz"


PIXELS = ["--image-mean", "120", "--image-scale", "0.02"]


def weights_of(package: Path) -> bytes:
    return next(package.rglob("weight.bin")).read_bytes()


def test_palettize_takes_pictures_as_arrays(network: tuple[Path, Path, Path], tmp_path: Path) -> None:
    package, images, arrays = network
    how = ["--nbits", "2", "--weight-threshold", "100", "--quiet"]
    for out, given in (("a", [str(images), *PIXELS]), ("b", [str(arrays)]), ("c", [str(images), "--image-scale", "1"])):
        assert main(["palettize", str(package), str(tmp_path / f"{out}.mlpackage"), *how, "--calibrate", *given]) == 0
    a, b, c = (weights_of(tmp_path / f"{out}.mlpackage") for out in "abc")
    assert a == b != c


def test_sensitivity_takes_pictures_as_arrays(network: tuple[Path, Path, Path], tmp_path: Path) -> None:
    package, images, arrays = network
    for out, given in (("a", [str(images), *PIXELS]), ("b", [str(arrays)])):
        assert main(["sensitivity", str(package), "--out", str(tmp_path / f"{out}.npz"), "--calibrate", *given]) == 0
    with np.load(tmp_path / "a.npz") as one, np.load(tmp_path / "b.npz") as two:
        names = [name for name in one.files if name != "weights.json"]
        assert names
        for name in names:
            np.testing.assert_allclose(one[name], two[name], rtol=1e-6)


def test_finetune_takes_pictures_as_arrays(network: tuple[Path, Path, Path], tmp_path: Path) -> None:
    package, images, arrays = network
    how = ["--nbits", "2", "--weight-threshold", "100", "--epochs", "1", "--quiet"]
    for calibrate in ([], ["--calibrate", "6"]):
        for out, given in (("a", [str(images), *PIXELS]), ("b", [str(arrays)])):
            place = tmp_path / f"{out}{len(calibrate)}.mlpackage"
            assert main(["finetune", str(package), "--out", str(place), *how, *calibrate, "--data", *given]) == 0
        assert weights_of(tmp_path / f"a{len(calibrate)}.mlpackage") == weights_of(
            tmp_path / f"b{len(calibrate)}.mlpackage"
        )


def test_plans_take_pictures_as_arrays(network: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    package, images, arrays = network
    told = []
    for given in ([str(images), *PIXELS], [str(arrays)]):
        how = ["--bits-per-weight", "3", "--weight-threshold", "100", "--json", "--unmeasured"]
        assert main(["plan", str(package), *how, "--calibrate", *given]) == 0
        told.append(json.loads(capsys.readouterr().out)["error"])
    assert told[0] == told[1]


def test_pixels_without_pictures(
    network: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package, _, arrays = network
    place = str(tmp_path / "out.mlpackage")
    for given, told in (
        ([], "--image-mean goes with --calibrate and samples"),
        (["--calibrate", "weights"], "--image-mean goes with --calibrate and samples"),
        (["--calibrate", "8"], "are of pictures, and these are made-up samples; leave them out"),
        (["--calibrate", str(arrays)], "holds no pictures, which image mean and scale are of; leave them out"),
    ):
        assert main(["palettize", str(package), place, "--nbits", "4", "--image-mean", "1", *given]) == 2
        assert told in capsys.readouterr().err
