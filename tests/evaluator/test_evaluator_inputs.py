"""What goes into the evaluator and comes out of it: arrays, pictures, shapes, made up ids, files, options."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.proto import FeatureTypes_pb2 as FeatureTypes
from coremltools.proto import Model_pb2 as CoreML

torch = pytest.importorskip("torch")

from evaluator import mb, program_of, saved  # noqa: E402

from mil_palettize import ConfigError, EvaluationError, PackageError  # noqa: E402
from mil_palettize.cli.main import main  # noqa: E402
from mil_palettize.cli.output import write_report  # noqa: E402
from mil_palettize.torch import comparison, open_model, predictions  # noqa: E402
from mil_palettize.torch.features import Features, plain_array  # noqa: E402
from mil_palettize.torch.made_up_inputs import plausible_inputs, table_sizes  # noqa: E402
from mil_palettize.torch.predictions import packed_outputs, run_package  # noqa: E402
from mil_palettize.torch.samples import read_samples  # noqa: E402

RNG = np.random.default_rng(0)
COLORS = FeatureTypes.ImageFeatureType.ColorSpace


def described(name: str, **kind: Any) -> CoreML.FeatureDescription:
    return CoreML.FeatureDescription(name=name, type=FeatureTypes.FeatureType(**kind))


def image_features(space: str) -> Features:
    image = described("image", imageType=FeatureTypes.ImageFeatureType(colorSpace=COLORS.Value(space)))
    return Features({"image": image}, {"image": image})


def array_features(**flexibility: Any) -> Features:
    array = FeatureTypes.ArrayFeatureType(shape=[1, 4], **flexibility)
    return Features({"x": described("x", multiArrayType=array)}, {})


def image_tensor(space: str, value: Any) -> Any:
    return image_features(space).tensors({"image": value})["image"]


@pytest.fixture
def model(fixtures: Path) -> Path:
    return fixtures / "conv_fp16_ios18.mlpackage"


def exit_code(*arguments: Any) -> int:
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as exit_:
        return int(exit_.code or 0)


# Arrays


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_arrays_of_numbers(dtype: str, order: str) -> None:
    values = np.arange(6).reshape(2, 3)
    array = values.astype(np.dtype(dtype).newbyteorder(order))[::-1, ::-1]
    found = plain_array("x", array)
    assert np.array_equal(found, array)
    assert found.dtype == np.dtype(dtype)
    assert found.dtype.isnative
    assert found.flags.c_contiguous
    assert np.array_equal(torch.as_tensor(found).numpy(), array)


def test_odd_arrays() -> None:
    assert plain_array("x", np.arange(3, dtype=np.longdouble)).dtype == np.float64
    assert plain_array("x", 3).shape == ()
    assert plain_array("x", [[1, 2], [3, 4]]).shape == (2, 2)
    fixed = np.zeros(3)
    fixed.flags.writeable = False
    assert plain_array("x", fixed).flags.writeable
    tensor = torch.zeros(3)
    assert Features({}, {}).tensors({"x": tensor})["x"] is tensor


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ("text", "<U4"),
        (b"text", r"\|S4"),
        (None, "object"),
        ([1, None], "object"),
        (np.zeros(2, "M8[s]"), "datetime64"),
        (np.zeros(2, [("a", "f4")]), "a"),
        (np.zeros(2, np.complex64), "complex64"),
    ],
)
def test_arrays_of_other_things(value: Any, dtype: str) -> None:
    with pytest.raises(EvaluationError, match=f"input 'x' is of dtype .*{dtype}"):
        array_features().tensors({"x": value})
    with pytest.raises(EvaluationError, match=f"input 'image' is of dtype .*{dtype}"):
        image_tensor("RGB", value)


def test_lists_of_unequal_lengths() -> None:
    with pytest.raises(EvaluationError, match="input 'x' is no array"):
        plain_array("x", [[1, 2], [3]])


# Pictures


def test_pictures_of_gray_floats_keep_their_fractions() -> None:
    value = torch.tensor([[[[-1.25, 0.4], [255.5, 300.75]]]])
    found = image_features("GRAYSCALE_FLOAT16").outputs({"image": value})["image"]
    assert found.dtype == np.float32
    assert np.array_equal(found, value[0, 0].numpy())
    found = image_features("GRAYSCALE").outputs({"image": value})["image"]
    assert found.dtype == np.uint8
    assert np.array_equal(found, [[0, 0], [255, 255]])


@pytest.mark.parametrize("space", ["GRAYSCALE", "GRAYSCALE_FLOAT16"])
def test_single_channels_are_not_rounded(space: str) -> None:
    pixels = RNG.uniform(0, 255, (3, 5)).astype(np.float32)
    for given in (pixels, pixels[..., None]):
        assert np.array_equal(image_tensor(space, given), pixels[None, None])


def test_colors_made_gray() -> None:
    pixels = RNG.integers(0, 256, (3, 5, 4)).astype(np.uint8)
    wanted = (pixels[..., :3] @ np.array([0.299, 0.587, 0.114])).astype(np.float32)[None, None]
    for given in (pixels, pixels[..., :3]):
        np.testing.assert_allclose(image_tensor("GRAYSCALE_FLOAT16", given), wanted, rtol=1e-6)
        assert np.array_equal(image_tensor("GRAYSCALE", given), np.rint(wanted))


@pytest.mark.parametrize("space", ["RGB", "BGR"])
def test_gray_made_colors(space: str) -> None:
    pixels = RNG.integers(0, 256, (3, 5)).astype(">u2")
    for given in (pixels, pixels[..., None]):
        assert np.array_equal(image_tensor(space, given), np.repeat(pixels[None, None], 3, axis=1))


@pytest.mark.parametrize("space", ["RGB", "BGR", "GRAYSCALE", "GRAYSCALE_FLOAT16"])
def test_shapes_that_no_picture_has(space: str) -> None:
    for shape in ((), (4,), (4, 5, 2), (4, 5, 0), (3, 4, 5), (1, 1, 4, 5, 3)):
        with pytest.raises(EvaluationError, match=r"input 'image' is an image.*height, width, channels") as caught:
            image_tensor(space, np.zeros(shape))
        assert str(list(shape)) in str(caught.value)
    assert image_tensor(space, np.zeros((1, 3, 4, 5))).shape == (1, 3, 4, 5)


# Flexible shapes


def test_shapes_outside_a_range() -> None:
    Range = FeatureTypes.SizeRange
    limits = FeatureTypes.ArrayFeatureType.ShapeRange(
        sizeRanges=[Range(lowerBound=1, upperBound=1), Range(lowerBound=2, upperBound=6)]
    )
    features = array_features(shapeRange=limits)
    for size in (2, 6):
        features.tensors({"x": np.zeros((1, size))})
    for shape in ((1, 1), (1, 7), (2, 4), (4,), (1, 4, 1)):
        with pytest.raises(EvaluationError, match=r"input 'x' has shape .*; the model takes \[1, 2\.\.6\]") as caught:
            features.tensors({"x": torch.zeros(shape)})
        assert str(list(shape)) in str(caught.value)
    limits.sizeRanges[1].upperBound = -1
    array_features(shapeRange=limits).tensors({"x": np.zeros((1, 1000))})
    with pytest.raises(EvaluationError, match=r"the model takes \[1, 2\.\.\]"):
        array_features(shapeRange=limits).tensors({"x": np.zeros((1, 1))})


def test_shapes_that_are_not_enumerated() -> None:
    Shape = FeatureTypes.ArrayFeatureType.Shape
    shapes = FeatureTypes.ArrayFeatureType.EnumeratedShapes(shapes=[Shape(shape=[1, 4]), Shape(shape=[1, 8])])
    features = array_features(enumeratedShapes=shapes)
    features.tensors({"x": np.zeros((1, 8))})
    with pytest.raises(EvaluationError, match=r"has shape \[1, 6\]; the model takes one of \[\[1, 4\], \[1, 8\]\]"):
        features.tensors({"x": np.zeros((1, 6))})


def test_a_flexible_model_checks_its_shapes(fixtures: Path) -> None:
    module = open_model(fixtures / "flexible_ios16.mlpackage")
    (sample,) = plausible_inputs(module, 1)
    name, array = next((n, a) for n, a in sample.items() if a.ndim > 1)
    with pytest.raises(EvaluationError, match=f"input '{name}' has shape"):
        module.predict({**sample, name: array[..., None]})


# Made up ids


def looked_up(tmp_path: Path, indices: Callable[[Any], Any], rows: int = 34, dtype: Any = np.int32) -> Any:
    table = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
    program = program_of(lambda x: mb.gather(x=table, indices=indices(x), axis=0), [((200,), dtype)])
    return open_model(saved(program, tmp_path))


def wrapped(indices: Any, rows: int) -> Any:
    """As converters write indices that may be negative."""
    beyond = mb.add(x=indices, y=np.int32(rows))
    return mb.select(cond=mb.greater_equal(x=indices, y=np.int32(0)), a=indices, b=beyond)


@pytest.mark.parametrize(
    ("indices", "wanted"),
    [
        (lambda x: x, 34),
        (lambda x: mb.add(x=x, y=np.int32(2)), 32),
        (lambda x: mb.add(x=np.arange(200, dtype=np.int32) % 5, y=x), 30),
        (lambda x: mb.add(x=mb.add(x=x, y=np.int32(2)), y=np.int32(3)), 29),
        (lambda x: mb.add(x=x, y=np.int32(-2)), 34),
        (lambda x: wrapped(x, 34), 34),
        (lambda x: wrapped(mb.add(x=x, y=np.int32(2)), 34), 32),
        (lambda x: mb.add(x=x, y=np.int32(50)), 1),
    ],
)
def test_ids_of_tables_read_at_an_offset(indices: Callable[[Any], Any], wanted: int, tmp_path: Path) -> None:
    assert table_sizes(looked_up(tmp_path, indices)) == {"x0": wanted}


def test_made_up_ids_run_at_an_offset(tmp_path: Path) -> None:
    module = looked_up(tmp_path, lambda x: mb.add(x=x, y=np.int32(2)))
    (sample,) = plausible_inputs(module, 1)
    assert sample["x0"].max() == 31
    assert next(iter(module.predict(sample).values())).max() == 67


def test_float_ids_at_an_offset(tmp_path: Path) -> None:
    module = looked_up(tmp_path, lambda x: mb.cast(x=mb.add(x=x, y=np.float32(2)), dtype="int32"), dtype=np.float32)
    assert table_sizes(module) == {"x0": 32}


def test_seeds_below_zero(model: Path) -> None:
    with pytest.raises(ConfigError, match="seed is -1; give 0 or more"):
        plausible_inputs(open_model(model), 1, -1)


# Files of inputs


def archive(path: Path, member: bytes, name: str = "x.npy", **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", **options) as file:
        file.writestr(name, member)
    return path


def refused(path: Path, model: Path) -> str:
    with pytest.raises(PackageError, match=r"cannot read .*plain arrays") as caught:
        read_samples(path, open_model(model))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_damaged_members(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    assert "is no array" in refused(archive(path, b"text", "notes.txt"), model)
    np.savez_compressed(path, x=RNG.standard_normal(1000))
    whole = path.read_bytes()
    path.write_bytes(whole[:200] + bytes(byte ^ 255 for byte in whole[200:400]) + whole[400:])
    refused(path, model)
    unknown = bytearray(whole)
    unknown[8:10] = (99).to_bytes(2, "little")  # the method in the member's header and in the directory
    at = unknown.rindex(b"PK\x01\x02")
    unknown[at + 10 : at + 12] = (99).to_bytes(2, "little")
    path.write_bytes(unknown)
    refused(path, model)
    encrypted = bytearray(whole)
    encrypted[6] |= 1
    encrypted[at + 8] |= 1
    path.write_bytes(encrypted)
    refused(path, model)


def test_scalars_for_pictures(fixtures: Path, tmp_path: Path) -> None:
    path, model = tmp_path / "x.npz", fixtures / "image_classifier_ios15.mlpackage"
    (name,) = open_model(model).features.inputs
    np.savez(path, **{name: np.float32(3)})
    assert read_samples(path, open_model(model))[0][name].shape == ()
    with pytest.raises(EvaluationError, match=rf"input '{name}' is an image, not of shape \[\]"):
        run_package(model, path)


# Files of outputs


def test_outputs_of_any_name_and_kind(tmp_path: Path) -> None:
    path = tmp_path / "y.npz"
    outputs = {
        "file": np.arange(3),
        "allow_pickle": np.ones((2, 2), np.float16),
        "a/b": np.float32(2) * np.ones(()),
        "": np.zeros(0),
        "größe.npy": np.zeros(2, bool),
        "label": np.array(["cat", "Eichhörnchen"], object),
        "text": np.array("dog"),
    }
    write_report(str(path), packed_outputs(outputs))
    with np.load(path, allow_pickle=False) as found:
        assert set(found.files) == outputs.keys()
        for name, array in outputs.items():
            assert np.array_equal(found[name], array)
            assert found[name].dtype.kind == ("U" if array.dtype.kind == "O" else array.dtype.kind)
    assert [item.name for item in tmp_path.iterdir()] == ["y.npz"]


def test_outputs_are_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "y.npz"
    path.write_bytes(b"before")

    def stopped(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", stopped)
    with pytest.raises(PackageError, match=r"cannot write .*y\.npz: No space left"):
        write_report(str(path), packed_outputs({"y": np.zeros(3)}))
    assert path.read_bytes() == b"before"
    assert [item.name for item in tmp_path.iterdir()] == ["y.npz"]


def test_outputs_through_a_link_and_to_a_device(tmp_path: Path) -> None:
    path, link = tmp_path / "y.npz", tmp_path / "link.npz"
    path.write_bytes(b"before")
    link.symlink_to(path)
    write_report(str(link), packed_outputs({"y": np.arange(3)}))
    assert link.is_symlink()
    with np.load(path) as found:
        assert np.array_equal(found["y"], np.arange(3))
    write_report("/dev/null", packed_outputs({"y": np.arange(3)}))
    assert Path("/dev/null").is_char_device()


# Options


@pytest.mark.parametrize(
    ("command", "arguments", "told"),
    [
        ("run", ["--seed", "-1"], "'-1' is no seed; give a whole number, 0 or more"),
        ("run", ["--seed", "²"], "'²' is no seed"),
        ("run", ["--seed", "1" + "0" * 18], "of up to 18 digits"),
        ("run", ["--random", "²"], "'²' is no number of samples; give 1 or more"),
        ("run", ["--random", "٣"], "'٣' is no number of samples; give 1 or more"),
        ("compare", ["--fail-below", "-5dBs"], "'-5dBs' is no number of decibels"),
        ("compare", ["--fail-below", "--json"], "expected one argument"),
    ],
)
def test_wrong_options(
    command: str, arguments: list[str], told: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [model] if command == "run" else [model, model]
    assert exit_code(command, *models, *arguments) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("option", [["--fail-below", "-5dB"], ["--fail-below=-5dB"], ["--fail-below", "-5"]])
def test_decibels_below_zero(option: list[str], model: Path) -> None:
    assert exit_code("compare", model, model, "--random", 1, *option) == 0


def test_what_is_read_is_not_written_over(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(predictions, "run_package", lambda *_, **__: pytest.fail("was run"))
    monkeypatch.setattr(comparison, "compare_packages", lambda *_, **__: pytest.fail("was run"))
    inputs, link = tmp_path / "x.npz", tmp_path / "link"
    np.savez(inputs, x=np.zeros(3))
    link.symlink_to(inputs)
    runs = [
        (["run", model, "--out", model / "y.npz"], "is inside the package"),
        (["run", model, "--out", tmp_path / "no" / "y.npz"], "does not exist; make it first"),
        (["run", model, "--inputs", inputs, "--out", link], "is the file of --inputs; choose another"),
        (["compare", model, model, "--inputs", inputs, "--html", inputs], "is the file of --inputs; choose another"),
    ]
    for arguments, told in runs:
        assert exit_code(*arguments) == 2
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1


def test_a_page_of_core_ml_asks_for_no_ops(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def stopped(*_: Any, **options: Any) -> None:
        asked.append(options["per_op"])
        raise EvaluationError("enough")

    monkeypatch.setattr(comparison, "compare_packages", stopped)
    page = ["--html", tmp_path / "page.html"]
    for extra in (page, [*page, "--runtime", "coreml"], ["--runtime", "coreml"], ["--per-op", "--runtime", "coreml"]):
        exit_code("compare", model, model, *extra)
    assert asked == [True, False, False, True]


class Halved(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 0.5


def test_outputs_of_gray_floats(tmp_path: Path) -> None:
    """The whole way, through a package."""
    layout = ct.colorlayout.GRAYSCALE_FLOAT16
    traced = torch.jit.trace(Halved(), torch.zeros(1, 1, 4, 5))
    converted = ct.convert(
        traced,
        inputs=[ct.ImageType(name="x0", shape=(1, 1, 4, 5), color_layout=layout)],
        outputs=[ct.ImageType(name="y", color_layout=layout)],
        minimum_deployment_target=ct.target.iOS16,
        skip_model_load=True,
    )
    path = tmp_path / "gray.mlpackage"
    converted.save(str(path))
    module = open_model(path)
    pixels = RNG.integers(0, 256, (4, 5)).astype(np.float16) + np.float16(0.5)
    (found,) = module.predict({"x0": pixels}).values()
    assert found.shape == (4, 5)
    np.testing.assert_allclose(found, pixels * 0.5, rtol=1e-3)
    (sample,) = plausible_inputs(module, 1)
    assert sample["x0"].shape == (4, 5)
