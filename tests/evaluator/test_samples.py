"""Samples as people have them: axes of files, folders of pictures, functions in files, and what is said of bad ones."""

from __future__ import annotations

import builtins
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from evaluator import mb, program_of, saved  # noqa: E402

from mil_palettize import Calibration, OpPalettizerConfig, OptimizationConfig, compare, palettize_package  # noqa: E402
from mil_palettize.cli.main import main  # noqa: E402
from mil_palettize.errors import ConfigError, EvaluationError, PackageError  # noqa: E402
from mil_palettize.torch import image_folder, open_model  # noqa: E402
from mil_palettize.torch.predictions import run_package  # noqa: E402
from mil_palettize.torch.samples import read_samples  # noqa: E402

RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(3, 4)).astype(np.float32)


@pytest.fixture
def linear(tmp_path: Path) -> Path:
    """Takes ``x0`` of 1×4."""
    return saved(program_of(lambda x: mb.linear(x=x, weight=WEIGHT), [((1, 4), np.float32)]), tmp_path)


@pytest.fixture
def sum_of_two(tmp_path: Path) -> Path:
    return saved(program_of(lambda x, y: mb.add(x=x, y=y), [((1, 4), np.float32), ((2, 4), np.float32)]), tmp_path)


def assert_rows(found: Any, wanted: np.ndarray) -> None:
    """One sample for each row."""
    assert len(found) == len(wanted)
    for sample, row in zip(found, wanted, strict=True):
        assert np.array_equal(sample["x0"], row[None])


# Arrays


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_axes_of_a_file(linear: Path, tmp_path: Path, suffix: str) -> None:
    """Of one sample, of several with an axis more, of several along the first axis, which is 1 in the model."""
    module, path, rows = open_model(linear), tmp_path / f"x{suffix}", RNG.normal(size=(5, 4)).astype(np.float32)
    for array, wanted in ((rows[:1], rows[:1]), (rows[:, None], rows), (rows, rows), (rows[:1, None], rows[:1])):
        if suffix == ".npz":
            np.savez(path, x0=array)
        else:
            np.save(path, array)
        assert_rows(read_samples(path, module), wanted)


def test_an_array_that_does_not_fit_is_left_for_the_model_to_refuse(linear: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x0=np.zeros((5, 3), np.float32))
    with pytest.raises(EvaluationError, match=r"input 'x0' has shape \[5, 3\]; the model takes \[1, 4\]"):
        run_package(linear, tmp_path / "x.npz")


def test_a_flexible_first_axis_is_a_batch(fixtures: Path, tmp_path: Path) -> None:
    """What the model takes as it is stays one sample."""
    module = open_model(fixtures / "flexible_ios16.mlpackage")
    (name,) = module.features.inputs
    ranges = module.features.inputs[name].type.multiArrayType.shapeRange.sizeRanges
    shape = [int(size.upperBound) for size in ranges]
    np.savez(tmp_path / "x.npz", **{name: np.zeros(shape, np.float32)})
    (sample,) = read_samples(tmp_path / "x.npz", module)
    assert list(sample[name].shape) == shape


def test_inputs_in_different_layouts(sum_of_two: Path, tmp_path: Path) -> None:
    """One along its first axis, the other the same for all."""
    one, two = RNG.normal(size=(3, 4)).astype(np.float32), np.zeros((2, 4), np.float32)
    np.savez(tmp_path / "x.npz", x0=one, x1=two)
    samples = read_samples(tmp_path / "x.npz", open_model(sum_of_two))
    assert_rows(samples, one)
    assert all(np.array_equal(sample["x1"], two) for sample in samples)
    np.savez(tmp_path / "x.npz", x0=one, x1=np.zeros((4, 2, 4), np.float32))
    with pytest.raises(EvaluationError, match=r"other numbers of samples for other inputs: {'x0': 3, 'x1': 4}"):
        read_samples(tmp_path / "x.npz", open_model(sum_of_two))


def test_a_single_array_for_two_inputs(sum_of_two: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, 4)))
    with pytest.raises(
        EvaluationError, match=r"holds a single array, and the model takes 'x0' \[1, 4\], 'x1' \[2, 4\]"
    ):
        read_samples(tmp_path / "x.npy", open_model(sum_of_two))


def test_wrong_names_list_the_inputs_with_their_shapes(sum_of_two: Path, fixtures: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", other=np.zeros(3))
    with pytest.raises(EvaluationError, match=r"no input 'other'; it takes 'x0' \[1, 4\], 'x1' \[2, 4\]"):
        read_samples(tmp_path / "x.npz", open_model(sum_of_two))
    with pytest.raises(EvaluationError, match=r"no input 'other'; it takes '\w+' \(image 32×32 or 64×64\)"):
        read_samples(tmp_path / "x.npz", open_model(fixtures / "image_classifier_ios15.mlpackage"))


# Functions in files


def written(folder: Path, text: str) -> Path:
    path = folder / "data.py"
    path.write_text(f"import numpy as np\n{text}\n")
    return path


@pytest.mark.parametrize(
    "text",
    [
        "def samples():\n    for row in ROWS:\n        yield {'x0': row[None]}",
        "def samples():\n    return [row[None] for row in ROWS]",
        "samples = [{'x0': row[None]} for row in ROWS]",
    ],
)
def test_a_generator_of_ones_own(linear: Path, tmp_path: Path, text: str) -> None:
    path = written(tmp_path, f"ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)\n{text}")
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert_rows(read_samples(f"{path}:samples", open_model(linear)), rows)
    assert main(["run", str(linear), "--inputs", f"{path}:samples", "--out", str(tmp_path / "y.npz")]) == 0
    with np.load(tmp_path / "y.npz") as outputs:
        np.testing.assert_allclose(next(iter(outputs.values()))[:, 0], rows @ WEIGHT.T, rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def other(): pass", r"defines no 'samples'; it has \['other'\]"),
        ("def samples():\n    yield from ()", "gives no sample; yield at least one"),
        ("def samples(count): pass", "gives no samples: TypeError"),
        ("def samples():\n    yield {'z': 1}", "no input 'z'; it takes 'x0'"),
        (
            "def samples():\n    yield np.zeros((1, 4))\n    raise KeyError('gone')",
            "gives no samples: KeyError: 'gone'",
        ),
        ("1 / 0", "fails: ZeroDivisionError: division by zero"),
        ("def samples(:", "fails: SyntaxError"),
        ("raise SystemExit(0)", "fails: SystemExit: 0"),
        ("def samples():\n    import sys\n    sys.exit()", "gives no samples: SystemExit"),
        ("def samples():\n    yield np.zeros((1, 4))\n    exit(0)", "gives no samples: SystemExit: 0"),
    ],
)
def test_a_file_that_gives_none(linear: Path, tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises((EvaluationError, ConfigError), match=message) as caught:
        read_samples(f"{path}:samples", open_model(linear))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(linear: Path, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="no such file"):
        read_samples(f"{tmp_path}/none.py:samples", open_model(linear))


# Folders of pictures


@pytest.fixture
def classifier(fixtures: Path) -> Path:
    return fixtures / "image_classifier_ios15.mlpackage"


def size_of(model: Path) -> tuple[str, int, int]:
    (name,) = (features := open_model(model).features).inputs
    image = features.inputs[name].type.imageType
    return name, int(image.height), int(image.width)


def test_a_folder_of_pictures(classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("PIL.Image")
    name, height, width = size_of(classifier)
    exact = RNG.integers(0, 256, (height, width, 3)).astype(np.uint8)
    (tmp_path / "sub").mkdir()
    image.fromarray(exact).save(tmp_path / "b.png")
    wide = np.zeros((2 * height, 6 * width, 3), np.uint8)
    wide[:, 2 * width : 4 * width] = (200, 100, 50)  # what is left when the sides are cut
    image.fromarray(wide).save(tmp_path / "sub" / "c.png")
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    (tmp_path / "labels.csv").write_text("b.png,1")
    (tmp_path / ".hidden.png").write_bytes(b"")
    samples = read_samples(tmp_path, open_model(classifier))
    assert len(samples) == 2
    assert np.array_equal(samples[0][name], exact)
    assert samples[1][name].shape == (height, width, 3)
    assert np.array_equal(samples[1][name][height // 2, width // 2], (200, 100, 50))
    assert samples.notes[0].startswith("1 image of")
    assert samples.notes[0].endswith(f"cut to {width}×{height}")
    assert samples.notes[1].endswith("left out, cannot be read: a.jpg")
    assert samples.notes[2].startswith("1 file in")
    assert main(["run", str(classifier), "--inputs", str(tmp_path)]) == 0
    assert all(note in capsys.readouterr().out for note in samples.notes[:1])


def test_pictures_that_fail_in_any_way_are_counted_and_named(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What readers of pictures raise is of many kinds; here it comes from a reader that is not Pillow."""
    name, height, width = size_of(classifier)
    errors = {"a": struct.error("short"), "b": zlib.error("bad"), "c": EOFError(), "d": RuntimeError("a bomb")}
    for stem in (*errors, "e"):
        (tmp_path / f"{stem}.png").write_bytes(b"")

    class Picture:
        def __init__(self, path: Path) -> None:
            self.stem, self.height, self.width = path.stem, height, width

        def __enter__(self) -> Picture:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def convert(self, mode: str) -> np.ndarray:
            if self.stem in errors:
                raise errors[self.stem]
            found = np.full((height, width, 3), 7, np.uint8).view(Pixels)
            found.height, found.width = height, width
            return found

    class Pixels(np.ndarray):
        height: int
        width: int

    reader = SimpleNamespace(registered_extensions=lambda: {".png": "PNG"}, open=Picture)
    monkeypatch.setattr(
        image_folder, "_pillow", lambda: (reader, SimpleNamespace(exif_transpose=lambda picture: picture))
    )
    samples = read_samples(tmp_path, open_model(classifier))
    assert len(samples) == 1
    assert (samples[0][name] == 7).all()
    assert samples.notes == [f"4 images of {tmp_path} left out, cannot be read: a.png, b.png, c.png, …"]


def test_a_picture_that_is_a_bomb(classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = pytest.importorskip("PIL.Image")
    _, height, width = size_of(classifier)
    for stem, size in (("bomb", (64, 64)), ("small", (width, height))):
        image.new("RGB", size).save(tmp_path / f"{stem}.png")
    monkeypatch.setattr(image, "MAX_IMAGE_PIXELS", 1100)  # twice that is refused
    samples = read_samples(tmp_path, open_model(classifier))
    assert len(samples) == 1
    assert samples.notes[0].endswith("left out, cannot be read: bomb.png")


def test_a_folder_without_pictures(classifier: Path, linear: Path, tmp_path: Path) -> None:
    pytest.importorskip("PIL.Image")
    with pytest.raises(PackageError, match="has no picture that can be read"):
        read_samples(tmp_path, open_model(classifier))
    with pytest.raises(EvaluationError, match=r"needs a model with one input that is an image; this one takes 'x0'"):
        read_samples(tmp_path, open_model(linear))


def test_a_folder_without_pillow(classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "PIL":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"needs Pillow: pip install 'mil-palettize\[images\]'"):
        read_samples(tmp_path, open_model(classifier))


# Where they are used


def test_a_check_runs_on_the_samples_that_were_held_out(fixtures: Path, tmp_path: Path) -> None:
    source = fixtures / "conv_fp32_ios18.mlpackage"
    (name,) = (features := open_model(source).features).inputs
    shape = tuple(features.inputs[name].type.multiArrayType.shape)
    np.save(tmp_path / "x.npy", RNG.normal(size=(11, *shape[1:])).astype(np.float32))
    config = OptimizationConfig(global_config=OpPalettizerConfig(nbits=2, weight_threshold=64))
    calibration = Calibration(tmp_path / "x.npy")
    report = palettize_package(source, tmp_path / "o.mlpackage", config, calibration=calibration, check=True)
    assert report.check is not None
    assert report.check.samples == 2
    assert report.check.inputs == "samples held out of the calibration"


def test_pictures_beyond_what_is_kept_are_decoded_when_asked_for(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = pytest.importorskip("PIL.Image")
    for number in range(5):
        pixels = RNG.integers(0, 256, (40 + number, 50, 3)).astype(np.uint8)
        image.fromarray(pixels).save(tmp_path / f"{number}.png")
    model = open_model(classifier)
    whole = read_samples(tmp_path, model)
    monkeypatch.setattr(image_folder, "_KEPT", 2 * 32 * 32 * 3)
    some = read_samples(tmp_path, model)
    assert (some.names, some.notes) == (whole.names, whole.notes)
    assert [type(kept) is np.ndarray for kept in some.arrays.kept] == [True, True, False, False, False]
    for one, two in zip(whole, some, strict=True):
        assert np.array_equal(one["image"], two["image"])
    assert len(some[1:4]) == 3
    assert compare(classifier, classifier, tmp_path).samples == 5
    (tmp_path / "4.png").write_bytes(b"")
    with pytest.raises(PackageError, match=r"4\.png: it could be read before"):
        some[4]
