"""Ops that resize and crop images, against torch and numpy written after their documentation."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from evaluator import against_torch, evaluated, mb, same  # noqa: E402
from sampling_points import MODES, documented_points  # noqa: E402
from torch.nn import functional as F  # noqa: E402

rng = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def interpolated(x: np.ndarray, axis: int, points: np.ndarray) -> np.ndarray:
    values = np.moveaxis(x, axis, -1)
    lines = [np.interp(points, np.arange(x.shape[axis]), line) for line in values.reshape(-1, x.shape[axis])]
    return np.moveaxis(np.reshape(lines, (*values.shape[:-1], len(points))), -1, axis).astype(np.float32)


class Interpolated(torch.nn.Module):
    def __init__(self, **options) -> None:
        super().__init__()
        self.options = options

    def forward(self, x):
        return F.interpolate(x, **self.options)


@pytest.mark.parametrize(
    "options",
    [
        {"scale_factor": 2},
        {"scale_factor": (2, 3)},
        {"scale_factor": 1.5},
        {"scale_factor": (0.5, 2.5), "recompute_scale_factor": True},
        {"size": (4, 6)},
        {"size": (9, 13)},
        {"size": (2, 3)},
        {"size": (1, 1)},
    ],
)
@pytest.mark.parametrize("kind", ["nearest", "bilinear", "bilinear aligned"])
def test_interpolate_of_torch(options, kind):
    how = {"mode": "nearest"} if kind == "nearest" else {"mode": "bilinear", "align_corners": kind != "bilinear"}
    against_torch(Interpolated(**options, **how), floats(2, 3, 4, 6))


@pytest.mark.parametrize("how", [{"mode": "nearest"}, {"mode": "linear", "align_corners": False}])
@pytest.mark.parametrize("options", [{"scale_factor": 2}, {"size": 8}])
def test_interpolate_of_torch_along_one_axis(options, how):
    against_torch(Interpolated(**options, **how), floats(2, 3, 5))


@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 2, 3, 4), (1, 2, 2, 3, 4)])
def test_upsampling_of_any_rank(shape):
    x = floats(*shape)

    def nearest(x):
        return mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=3)

    def linear(x):
        return mb.upsample_bilinear(x=x, scale_factor_height=np.float32(0.7), scale_factor_width=np.float32(2))

    same(evaluated(nearest, x), [x.repeat(2, -2).repeat(3, -1)])
    wanted = interpolated(interpolated(x, -2, np.linspace(0, 2, 2)), -1, np.linspace(0, 3, 8))
    same(evaluated(linear, x), [wanted])


def test_sizes_are_multiplied_in_float32():
    x = floats(1, 10, 10)
    scale = np.float32(0.7)
    build = lambda x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=scale, scale_factor_width=scale)  # noqa: E731
    same(evaluated(build, x), [F.interpolate(torch.tensor(x)[None], size=(7, 7))[0].numpy()])


@pytest.mark.parametrize(
    ("align_corners", "half_pixel_centers", "wanted"),
    [
        (True, False, [1, 1.2, 1.4, 1.6, 1.8, 2]),
        (True, None, [1, 1.2, 1.4, 1.6, 1.8, 2]),
        (False, True, [1, 1, 4 / 3, 5 / 3, 2, 2]),
        (False, None, [1, 1, 4 / 3, 5 / 3, 2, 2]),
        (False, False, [1, 4 / 3, 5 / 3, 2, 2, 2]),
    ],
)
def test_centers_of_pixels(align_corners, half_pixel_centers, wanted):
    def build(x):
        options = {} if half_pixel_centers is None else {"half_pixel_centers": half_pixel_centers}
        return mb.upsample_bilinear(
            x=x, scale_factor_height=2, scale_factor_width=3, align_corners=align_corners, **options
        )

    x = np.array([1, 2], np.float32).reshape(1, 1, 1, 2)
    same(evaluated(build, x), [np.array([wanted, wanted], np.float32)[None, None]])


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        ("UNALIGN_CORNERS", [0, 0.1, 0.5, 0.9, 1]),
        ("STRICT_ALIGN_CORNERS", [0, 0.25, 0.5, 0.75, 1]),
        ("ALIGN_CORNERS", [0, 0.25, 0.5, 0.75, 1]),
        ("DEFAULT", [0, 0.4, 0.8, 1, 1]),
        ("OFFSET_CORNERS", [0.1, 0.3, 0.5, 0.7, 0.9]),
    ],
)
def test_documented_examples(mode, wanted):
    def build(x):
        return mb.resize_bilinear(x=x, target_size_height=1, target_size_width=5, sampling_mode=mode)

    x = np.array([0, 1], np.float32).reshape(1, 1, 2)
    same(evaluated(build, x), [np.array(wanted, np.float32).reshape(1, 1, 5)])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 5), (9, 7)])
def test_sampling_modes(mode, size):
    x = floats(2, 4, 5)
    wanted = x
    for axis, count in zip((-2, -1), size, strict=True):
        wanted = interpolated(wanted, axis, documented_points(mode, x.shape[axis], count))

    def build(x):
        return (
            mb.resize_bilinear(x=x, target_size_height=size[0], target_size_width=size[1], sampling_mode=mode),
            mb.resize(x=x, shape=list(size), resized_dims=np.uint32(2), sampling_mode=mode),
        )

    same(evaluated(build, x), [wanted, wanted])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [[7], [2, 7], [5, 3, 0], [9, 0, 3]])
def test_resize(mode, shape):
    """Of one to three axes of four, to a shape that is computed; 0 leaves an axis; fewer axes than the shape has."""
    x = floats(2, 2, 3, 4)
    axes = min(len(shape), 2) if shape[0] == 9 else len(shape)
    wanted = x
    for axis, count in zip(range(-axes, 0), shape[-axes:], strict=True):
        wanted = interpolated(wanted, axis, documented_points(mode, x.shape[axis], count or x.shape[axis]))

    def build(x, shape):
        return mb.resize(x=x, shape=shape, resized_dims=np.uint32(axes), sampling_mode=mode)

    same(evaluated(build, x, np.array(shape, np.int32)), [wanted])


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (3, 8), (4, 6), (5, 9)])
def test_nearest_neighbor_of_a_size(size):
    x = floats(2, 4, 6)
    wanted = F.interpolate(torch.tensor(x)[None], size=size, mode="nearest-exact")[0].numpy()

    def build(x):
        return (
            mb.resize_nearest_neighbor(x=x, target_size_height=size[0], target_size_width=size[1]),
            mb.resize(x=x, shape=list(size), resized_dims=np.uint32(2), interpolation_mode="NEAREST_NEIGHBOR"),
        )

    same(evaluated(build, x), [wanted, wanted])


def test_nearest_neighbor_of_other_modes_and_integers():
    x = np.array([[3, 7, 20]], np.int32)

    def build(x):
        options = {"resized_dims": np.uint32(1), "sampling_mode": "STRICT_ALIGN_CORNERS"}
        return (
            mb.resize(x=x, shape=[5], interpolation_mode="NEAREST_NEIGHBOR", **options),
            mb.resize(x=x, shape=[5], **options),
        )

    # Points 0, 0.5, 1, 1.5, 2.
    same(evaluated(build, x), [np.array([[3, 7, 7, 20, 20]], np.int32), np.array([[3, 5, 7, 14, 20]], np.int32)])


@pytest.mark.parametrize("crops", [((0, 1), (1, 1)), ((2, 0), (0, 0)), ((1, 1), (0, 3))])
def test_crop(crops):
    x = floats(2, 3, 4, 5)
    (top, bottom), (left, right) = crops
    wanted = x[:, :, top : 4 - bottom, left : 5 - right]
    same(evaluated(lambda x: mb.crop(x=x, crop_height=list(crops[0]), crop_width=list(crops[1])), x), [wanted])
