"""Inputs that a device would refuse are refused, and those that are made up never are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.proto import FeatureTypes_pb2 as FeatureTypes
from coremltools.proto import MIL_pb2 as MIL
from coremltools.proto import Model_pb2
from mil_messages import block, const, function, kind, op, value, write_package

torch = pytest.importorskip("torch")

from evaluator import mb, program_of, saved  # noqa: E402

from mil_palettize import EvaluationError  # noqa: E402
from mil_palettize.torch import open_model  # noqa: E402
from mil_palettize.torch.evaluator import memory  # noqa: E402
from mil_palettize.torch.features import Features, check_integers  # noqa: E402
from mil_palettize.torch.made_up_inputs import default_shape, default_size, plausible_inputs  # noqa: E402

RNG = np.random.default_rng(0)
Image = FeatureTypes.ImageFeatureType
Array = FeatureTypes.ArrayFeatureType
RGB, GRAY, GRAY_FLOAT16 = (Image.ColorSpace.Value(name) for name in ("RGB", "GRAYSCALE", "GRAYSCALE_FLOAT16"))


def features(**described: Any) -> Features:
    types = {name: FeatureTypes.FeatureType(**one) for name, one in described.items()}
    return Features({n: Model_pb2.FeatureDescription(name=n, type=one) for n, one in types.items()}, {})


def picture(image: Image, *shape: int, dtype: Any = np.uint8) -> Any:
    return features(photo={"imageType": image}).tensors({"photo": np.full(shape, 7, dtype)})


def flexible_image(width: tuple[int, int], height: tuple[int, int]) -> Image:
    limits = [FeatureTypes.SizeRange(lowerBound=low, upperBound=high) for low, high in (width, height)]
    ranges = Image.ImageSizeRange(widthRange=limits[0], heightRange=limits[1])
    return Image(width=16, height=8, colorSpace=RGB, imageSizeRange=ranges)


def enumerated_image(*sizes: tuple[int, int]) -> Image:
    listed = [Image.ImageSize(width=width, height=height) for width, height in sizes]
    return Image(colorSpace=RGB, enumeratedSizes=Image.EnumeratedImageSizes(sizes=listed))


# Sizes of images


def test_sizes_of_images() -> None:
    fixed = Image(width=16, height=8, colorSpace=RGB)
    assert picture(fixed, 8, 16, 3)["photo"].shape == (1, 3, 8, 16)
    for shape in ((16, 8, 3), (8, 15, 3), (8, 15), (1, 3, 16, 8)):
        with pytest.raises(EvaluationError, match=r"input 'photo' is an image of \d+×\d+ \(width × height\).*16×8$"):
            picture(fixed, *shape)
    ranged = flexible_image((16, 32), (8, -1))
    for shape in ((8, 16, 3), (1000, 32, 3)):
        picture(ranged, *shape)
    for shape in ((7, 16, 3), (8, 33, 3), (8, 15, 3)):
        with pytest.raises(EvaluationError, match=r"the model takes 16\.\.32×8\.\.$"):
            picture(ranged, *shape)
    listed = enumerated_image((16, 8), (32, 16))
    picture(listed, 16, 32, 3)
    with pytest.raises(EvaluationError, match=r"an image of 8×16 .*; the model takes 16×8 or 32×16"):
        picture(listed, 16, 8, 3)


# Pixels


@pytest.mark.parametrize("space", [RGB, GRAY])
def test_floats_from_zero_to_one(space: int) -> None:
    taken = features(photo={"imageType": Image(colorSpace=space)})
    for pixels in (RNG.uniform(0, 1, (4, 5, 3)), np.eye(4), RNG.uniform(0, 1, (1, 3, 4, 5))):
        with pytest.raises(EvaluationError, match=r"input 'photo' is an image of floats from 0 to 1.*from 0 to 255"):
            taken.tensors({"photo": pixels})
    for pixels in (np.zeros((4, 5)), RNG.uniform(0, 255, (4, 5)), np.eye(4, dtype=np.uint8)):
        taken.tensors({"photo": pixels})


@pytest.mark.parametrize("wrong", [-1, 256, 1e9, np.nan, np.inf])
def test_pixels_that_no_byte_holds(wrong: float) -> None:
    pixels = np.full((4, 5, 3), 9.0)
    pixels[1, 2, 0] = wrong
    with pytest.raises(EvaluationError, match=r"input 'photo' is an image and has the pixel .*from 0 to 255"):
        features(photo={"imageType": Image(colorSpace=RGB)}).tensors({"photo": pixels})


def test_pixels_that_are_floats() -> None:
    """Of a space that holds any."""
    pixels = np.array([[-0.5, 0.25], [1.0, 1000.0]])
    taken = features(photo={"imageType": Image(colorSpace=GRAY_FLOAT16)})
    assert np.array_equal(taken.tensors({"photo": pixels})["photo"][0, 0], pixels)


# Integers


@pytest.mark.parametrize(
    ("declared", "held", "wrong"),
    [
        ("int32", [-(2**31), 2**31 - 1], [2**31, -(2**31) - 1, 2**40]),
        ("uint16", [0, 65535], [-1, 65536]),
        ("uint8", [0, 255], [-1, 256]),
        ("int8", [-128, 127], [-129, 128]),
        ("bool", [0, 1], [2, -1]),
    ],
)
def test_integers_out_of_range(declared: str, held: list[int], wrong: list[int]) -> None:
    computed = {"uint16": torch.int32, "bool": torch.bool}.get(declared) or getattr(torch, declared)
    given = torch.tensor(held, dtype=torch.int64)
    check_integers("ids", given, given.to(computed), declared)
    for number in wrong:
        given = torch.tensor([held[0], number], dtype=torch.int64)
        with pytest.raises(
            EvaluationError, match=f"input 'ids' has values that {declared} cannot hold, such as {number};"
        ):
            check_integers("ids", given, given.to(computed), declared)


# Optional inputs


def optional(tmp_path: Path, **flexibility: Any) -> Path:
    """y = x + m, where ``m`` may be left out."""
    body = block(op("add", "y", {"x": "x", "y": "m"}), outputs=["y"])
    made = function({"CoreML8": body}, [("x", (-1,)), ("m", (-1,))])
    path = write_package(tmp_path / "p.mlpackage", MIL.Program(version=1, functions={"main": made}))
    stored = next(path.rglob("model.mlmodel"))
    message = Model_pb2.Model.FromString(stored.read_bytes())
    for name in ("x", "m"):
        feature = message.description.input.add(name=name)
        feature.type.multiArrayType.CopyFrom(Array(shape=[3], dataType=Array.FLOAT32, **flexibility))
    message.description.input[1].type.isOptional = True
    message.description.input[1].type.multiArrayType.floatDefaultValue = 2.0
    message.description.output.add(name="y").type.multiArrayType.dataType = Array.FLOAT32
    stored.write_bytes(message.SerializeToString())
    return path


def test_an_optional_input_that_is_left_out(tmp_path: Path) -> None:
    module = open_model(optional(tmp_path))
    assert module.predict({"x": np.ones(3)})["y"].tolist() == [3, 3, 3]
    assert list(plausible_inputs(module, 1)[0]) == ["x"]


def test_an_optional_input_of_flexible_size_that_is_left_out(tmp_path: Path) -> None:
    limits = Array.ShapeRange(sizeRanges=[FeatureTypes.SizeRange(lowerBound=1, upperBound=9)])
    module = open_model(optional(tmp_path, shapeRange=limits))
    with pytest.raises(EvaluationError, match="input 'm' is optional, but of flexible size: nothing says which it has"):
        module.predict({"x": np.ones(5)})
    assert module.predict({"x": np.ones(5), "m": np.ones(5)})["y"].tolist() == [2] * 5
    assert set(plausible_inputs(module, 1)[0]) == {"x", "m"}


# Made up


def test_default_shapes_are_those_that_are_taken() -> None:
    limits = Array.ShapeRange(sizeRanges=[FeatureTypes.SizeRange(lowerBound=4, upperBound=9)])
    assert default_shape(Array(shape=[5], shapeRange=limits)) == (5,)
    assert default_shape(Array(shape=[3], shapeRange=limits)) == (4,)
    shapes = Array.EnumeratedShapes(shapes=[Array.Shape(shape=[8]), Array.Shape(shape=[4])])
    assert default_shape(Array(shape=[4], enumeratedShapes=shapes)) == (4,)
    assert default_shape(Array(shape=[5], enumeratedShapes=shapes)) == (8,)
    assert default_size(Image()) == (224, 224)
    assert default_size(flexible_image((16, 32), (8, 8))) == (8, 16)
    huge = flexible_image((300, 400), (1, 100))
    huge.width = huge.height = 0
    assert default_size(huge) == (100, 300)
    assert default_size(enumerated_image((16, 8), (32, 16))) == (8, 16)


@pytest.mark.parametrize("dtype", ["INT8", "UINT8", "INT16", "UINT16", "INT32", "BOOL", "FLOAT16", "FLOAT32"])
def test_made_up_inputs_fit_the_type_of_the_program(dtype: str, tmp_path: Path) -> None:
    """Without a description, and where a table has more rows than the type can count."""
    made = function({"CoreML8": block(op("gather", "y", {"x": "t", "indices": "x"}), outputs=["y"])}, [("x", (500,))])
    made.inputs[0].type.CopyFrom(kind((500,), dtype))
    body = made.block_specializations["CoreML8"]
    rows = 3000
    body.operations.insert(0, const("t", np.zeros((rows, 1), np.float16)))
    if dtype.startswith("FLOAT"):
        body.operations.insert(1, op("cast", "i", {"x": "x", "dtype": value("int32")}))
        body.operations[2].inputs["indices"].arguments[0].name = "i"
    path = write_package(tmp_path / "p.mlpackage", MIL.Program(version=1, functions={"main": made}))
    module = open_model(path)
    (sample,) = plausible_inputs(module, 1)
    module.predict(sample)
    most = {"INT8": 127, "UINT8": 255, "BOOL": 1, "FLOAT16": 2047}.get(dtype, rows - 1)
    assert sample["x"].min() >= 0
    assert most - rows // 20 <= sample["x"].max() <= most


def test_more_samples_than_memory_holds(fixtures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = open_model(fixtures / "conv_fp16_ios18.mlpackage")
    with pytest.raises(EvaluationError, match=r"1000000000 samples of inputs .* cannot be made up.*ask for fewer"):
        plausible_inputs(module, 10**9)
    monkeypatch.setattr(memory, "_ALWAYS", 0)
    monkeypatch.setattr(memory, "free_bytes", lambda: 10)
    with pytest.raises(EvaluationError, match=r"1 sample of inputs .* cannot be made up"):
        plausible_inputs(module, 1)


def test_magnitudes_only_where_they_help(tmp_path: Path) -> None:
    def model(name: str, build: Any) -> Any:
        (tmp_path / name).mkdir()
        return open_model(saved(program_of(build, [((50,), np.float32)]), tmp_path / name))

    (helped,) = plausible_inputs(model("a", lambda x: mb.log(x=x)), 1)
    assert helped["x0"].min() >= 0
    never = model("b", lambda x: mb.log(x=mb.mul(x=x, y=np.float32(0)), epsilon=np.float32(-1)))
    assert plausible_inputs(never, 1)[0]["x0"].min() < 0
