"""Ops that sample images at places, in boxes or by a matrix, against torch and numpy written as documented."""

from __future__ import annotations

import itertools

import coremltools as ct
import numpy as np
import pytest

torch = pytest.importorskip("torch")
from evaluator import against_torch, evaluated, mb, same  # noqa: E402
from sampling_points import MODES, documented_points  # noqa: E402
from torch.nn import functional as F  # noqa: E402

rng = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


class GridSampled(torch.nn.Module):
    def __init__(self, **options) -> None:
        super().__init__()
        self.options = options

    def forward(self, x, grid):
        return F.grid_sample(x, grid, **self.options)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align_corners", [True, False])
def test_grid_sample_of_torch(mode, padding_mode, align_corners):
    module = GridSampled(mode=mode, padding_mode=padding_mode, align_corners=align_corners)
    against_torch(module, floats(2, 3, 4, 5), 1.5 * floats(2, 3, 2, 2))


PADS = {"constant": "constant", "border": "edge", "reflection": "reflect", "symmetric": "symmetric"}


def sampled(image, x, y, nearest, padding, value):
    """``image`` [c, h, w] at a point in pixels, from a padded copy."""
    around = 12
    options = {"constant_values": value} if padding == "constant" else {}
    wide = np.pad(image, ((0, 0), (around, around), (around, around)), PADS[padding], **options)
    x, y = x + around, y + around
    if nearest:
        return wide[:, round(y), round(x)]
    left, top = int(np.floor(x)), int(np.floor(y))
    across, down = x - left, y - top
    above = wide[:, top, left] * (1 - across) + wide[:, top, left + 1] * across
    below = wide[:, top + 1, left] * (1 - across) + wide[:, top + 1, left + 1] * across
    return above * (1 - down) + below * down


def in_pixels(coordinate, size, mode, align_corners):
    if mode == "unnormalized":
        return coordinate
    if mode == "normalized_minus_one_to_one":
        coordinate = (coordinate + 1) / 2
    return coordinate * (size - 1) if align_corners else coordinate * size - 0.5


@pytest.mark.parametrize("padding", list(PADS))
@pytest.mark.parametrize("coordinates", ["unnormalized", "normalized_minus_one_to_one", "normalized_zero_to_one"])
def test_resample(padding, coordinates):
    """In both sampling modes, with corners aligned and not."""
    x = floats(2, 2, 3, 4)
    grid = rng.uniform(-1.5, 1.5, (2, 3, 4, 2)).astype(np.float32) * (3 if coordinates == "unnormalized" else 1)
    variants = list(itertools.product(("bilinear", "nearest"), (True, False)))
    wanted = np.empty((4, 2, 2, 3, 4), np.float32)
    for (number, (mode, aligned)), b, h, w in itertools.product(enumerate(variants), range(2), range(3), range(4)):
        place = [in_pixels(grid[b, h, w, i], (4, 3)[i], coordinates, aligned) for i in range(2)]
        wanted[number, b, :, h, w] = sampled(x[b], *place, mode == "nearest", padding, 0.75)

    def build(x, grid):
        return [
            mb.resample(
                x=x,
                coordinates=grid,
                sampling_mode=mode,
                padding_mode=padding,
                padding_value=0.75,
                coordinates_mode=coordinates,
                align_corners=aligned,
            )
            for mode, aligned in variants
        ]

    same(evaluated(build, x, grid), list(wanted), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.int32, np.int8, np.uint16])
@pytest.mark.parametrize("size", [2, 1])
def test_resample_at_whole_pixels(dtype, size):
    x = floats(1, 1, size, size)
    grid = np.array([0, 0, 1, 1, 0, 0, 1, 0], dtype).reshape(1, 2, 2, 2)

    def build(x, grid):
        return mb.resample(
            x=x,
            coordinates=grid,
            sampling_mode="bilinear",
            padding_mode="constant",
            padding_value=5.0,
            coordinates_mode="unnormalized",
            align_corners=True,
        )

    padded = np.pad(x[0, 0], (0, 1), constant_values=5)
    same(evaluated(build, x, grid), [padded[[0, 1, 0, 0], [0, 1, 0, 1]].reshape(1, 1, 2, 2)])


def affine(x, matrix, height, width, align_corners=True):
    return mb.affine(
        x=x,
        transform_matrix=matrix,
        output_height=height,
        output_width=width,
        sampling_mode="bilinear",
        padding_mode="constant",
        padding_value=0.0,
        coordinates_mode="normalized_minus_one_to_one",
        align_corners=align_corners,
    )


@pytest.mark.parametrize("matrices", [1, 2])
@pytest.mark.parametrize("align_corners", [True, False])
def test_affine(matrices, align_corners):
    x, matrix = floats(2, 3, 4, 5), floats(matrices, 6)
    wanted = np.empty((2, 3, 3, 4), np.float32)
    for b, h, w in np.ndindex(2, 3, 4):
        sides = (4, 3)
        at = [2 * i / (n - 1) - 1 if align_corners else (2 * i + 1) / n - 1 for i, n in zip((w, h), sides, strict=True)]
        a, c = matrix[b % matrices, :3] @ [*at, 1], matrix[b % matrices, 3:] @ [*at, 1]
        place = [in_pixels(v, n, "normalized_minus_one_to_one", align_corners) for v, n in ((a, 5), (c, 4))]
        wanted[b, :, h, w] = sampled(x[b], *place, False, "constant", 0)
    same(evaluated(lambda x, m: affine(x, m, 3, 4, align_corners), x, matrix), [wanted], rtol=1e-4, atol=1e-5)


class Affine(torch.nn.Module):
    def __init__(self, align_corners: bool) -> None:
        super().__init__()
        self.theta = torch.tensor(floats(2, 2, 3))
        self.options = {"align_corners": align_corners}

    def forward(self, x):
        return F.grid_sample(x, F.affine_grid(self.theta, [2, 3, 4, 6], **self.options), **self.options)


@pytest.mark.parametrize("align_corners", [True, False])
def test_affine_of_torch(align_corners):
    against_torch(Affine(align_corners), floats(2, 3, 4, 5))


# Each as corners, height first.
BOXES = np.array([[0, 0, 1, 1], [0.1, 0.3, 0.7, 0.9], [0.5, 0.2, 1.3, 1.1], [-0.2, 0.4, 0.6, 0.45]], np.float32)


def as_given(boxes: np.ndarray, mode: str) -> np.ndarray:
    start, end = boxes[:, :2], boxes[:, 2:]
    if mode.startswith("CENTER"):
        start, end = (start + end) / 2, end - start
    order = slice(None, None, -1) if mode.endswith("WIDTH_FIRST") else slice(None)
    return np.concatenate((start[:, order], end[:, order]), 1)


def cropped(image, box, size, mode, pad):
    """``image`` [c, h, w]; ``box`` in pixels. Points are sampled as if the box were the image."""
    _, height, width = image.shape
    rows, columns = (box[i] + documented_points(mode, box[i + 2] - box[i] + 1, size[i]) for i in range(2))
    found = np.full((len(image), *size), pad, np.float32)
    for (i, y), (j, x) in itertools.product(enumerate(rows), enumerate(columns)):
        if -1e-6 < y < height - 1 + 1e-6 and -1e-6 < x < width - 1 + 1e-6:
            found[:, i, j] = sampled(image, np.clip(x, 0, width - 1), np.clip(y, 0, height - 1), False, "border", 0)
    return found


BOX_MODES = ["CORNERS_HEIGHT_FIRST", "CORNERS_WIDTH_FIRST", "CENTER_SIZE_HEIGHT_FIRST", "CENTER_SIZE_WIDTH_FIRST"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("target", [ct.target.iOS16, ct.target.iOS17])
def test_crop_resize(mode, target):
    """Boxes in all forms, normalized, and for one mode in pixels that are scaled."""
    x, indices = floats(2, 2, 5, 6), np.array([1, 0, 1, 0], np.int32)
    normalized = mode != "DEFAULT"
    scale, size = (1.0, (3, 4)) if normalized else (0.5, (2, 3))
    pixels = BOXES.astype(np.float64) * [4, 5, 4, 5]
    every = np.stack([[cropped(image, box, size, mode, 2.5) for image in x] for box in pixels])
    chosen = every[np.arange(4), indices]

    def crop(x, box_mode, **boxes):
        return mb.crop_resize(
            x=x,
            **boxes,
            target_height=size[0],
            target_width=size[1],
            normalized_coordinates=normalized,
            spatial_scale=np.float32(scale),
            box_coordinate_mode=box_mode,
            sampling_mode=mode,
            pad_value=2.5,
        )

    def build(x):
        for box_mode in BOX_MODES:
            boxes = as_given(BOXES if normalized else pixels / scale, box_mode).astype(np.float32)
            if target == ct.target.iOS17:
                yield crop(x, box_mode, boxes=boxes, box_indices=indices)
            else:
                yield crop(x, box_mode, roi=boxes.reshape(4, 1, 4, 1, 1))
                numbered = np.concatenate((indices[:, None].astype(np.float32), boxes), 1)
                yield crop(x, box_mode, roi=numbered.reshape(4, 1, 5, 1, 1))

    wanted = [chosen] * 4 if target == ct.target.iOS17 else [every, chosen[:, None]] * 4
    same(evaluated(lambda x: list(build(x)), x, target=target), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", [ct.target.iOS15, ct.target.iOS17])
def test_crop_resize_by_default(target):
    """One pixel of each box, the first, and each box from the image of its number; zeros outside."""
    x = np.arange(32, dtype=np.float32).reshape(2, 1, 4, 4)
    boxes = np.array([[1, 2, 3, 3], [2, -1, 3, 3]], np.float32)
    if target == ct.target.iOS15:
        roi = np.insert(boxes, 0, [0, 1], axis=1).reshape(2, 1, 5, 1, 1)
        found = evaluated(lambda x: mb.crop_resize(x=x, roi=roi), x, target=target)
        same(found, [np.array([6, 0], np.float32).reshape(2, 1, 1, 1, 1)])
    else:
        found = evaluated(lambda x: mb.crop_resize(x=x, boxes=boxes), x, target=target)
        same(found, [np.array([6, 0], np.float32).reshape(2, 1, 1, 1)])


@pytest.mark.parametrize(
    ("box", "size", "wanted"),
    [
        ([1, 1, 2, 2], 2, [6, 7, 10, 11]),
        ([1, 1, 2, 2], 1, [8.5]),
        ([2, 2, 1, 1], 2, [11, 10, 7, 6]),
        ([0, 0, 3, 3], 2, [1, 4, 13, 16]),
    ],
)
def test_crop_resize_of_whole_pixels(box, size, wanted):
    """The second corner may come first; integers as boxes."""
    x, boxes = np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4), np.array([box], np.uint16)

    def build(x, boxes):
        return mb.crop_resize(x=x, boxes=boxes, target_height=size, target_width=size, sampling_mode="ALIGN_CORNERS")

    same(evaluated(build, x, boxes), [np.array(wanted, np.float32).reshape(1, 1, size, size)])


def test_values_that_coremltools_expects_of_core_ml():
    """Of its own tests, which run on devices."""
    x = np.array([11, 22, 33, 44], np.float32).reshape(1, 1, 2, 2)
    grid = np.array([-1, -2, -3.7, -1, 0, 0, 3.5, 1.2], np.float32).reshape(1, 2, 2, 2)
    boxes = np.array([[0.1, 0.3, 1.3, 1], [0.5, 1.8, 1, 0.3], [0, 0.4, 0.6, 0.7]], np.float32)
    matrix = np.array([[-1, -2, -3.7, -1, 3.5, 1.2]], np.float32)

    def build(x, grid, matrix, image, line):
        variants = [
            ("bilinear", "constant", 6.17, "normalized_minus_one_to_one", True),
            ("nearest", "border", -1.0, "unnormalized", False),
            ("bilinear", "reflection", -1.0, "normalized_zero_to_one", True),
            ("nearest", "symmetric", -1.0, "normalized_zero_to_one", False),
        ]
        names = ("sampling_mode", "padding_mode", "padding_value", "coordinates_mode", "align_corners")
        options = {"normalized_coordinates": True, "sampling_mode": "ALIGN_CORNERS", "pad_value": 10.0}
        return (
            *(mb.resample(x=x, coordinates=grid, **dict(zip(names, v, strict=True))) for v in variants),
            affine(x, matrix, 3, 3),
            affine(x, matrix, 2, 5),
            mb.crop_resize(
                x=image, boxes=boxes, box_indices=np.zeros(3, np.int32), target_height=2, target_width=2, **options
            ),
            mb.resize(x=line, shape=[3, 2], resized_dims=np.uint32(2), interpolation_mode="NEAREST_NEIGHBOR"),
        )

    wanted = [
        [8.585, 6.17, 27.5, 6.17],
        [11, 11, 11, 44],
        [22, 36.3, 11, 34.1],
        [22, 33, 11, 33],
        [10.7525, 2.5025, 0, 1.98, 0, 0, 0, 0, 0],
        [10.7525, 5.94, 2.5025, 0.44, 0, 0, 0, 0, 0, 0],
        [3.1, 5.2, 10, 10, 10, 7.9, 10, 13.9, 2.2, 3.1, 9.4, 10.3],
        [-6.174, -6.174, 9.371, 9.371, 9.371, 9.371],
    ]
    image = np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)
    line = np.array([-6.174, 9.371], np.float32).reshape(1, 1, 2, 1)
    found = evaluated(build, x, grid, matrix, image, line)
    same([one.reshape(-1) for one in found], [np.array(w, np.float32) for w in wanted], rtol=1e-4, atol=1e-5)
