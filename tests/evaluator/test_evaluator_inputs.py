"""What goes into the evaluator: arrays, pictures, shapes, made up ids."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.proto import FeatureTypes_pb2 as FeatureTypes
from coremltools.proto import Model_pb2 as CoreML

torch = pytest.importorskip("torch")

from evaluator import mb, program_of, saved  # noqa: E402

from mil_palettize import ConfigError, EvaluationError  # noqa: E402
from mil_palettize.torch import open_model  # noqa: E402
from mil_palettize.torch.features import Features, plain_array  # noqa: E402
from mil_palettize.torch.made_up_inputs import plausible_inputs, table_sizes  # noqa: E402

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
