"""Images resized, cropped and sampled: the last two axes are height and width."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from mil_palettize.torch.evaluator.memory import claim
from mil_palettize.torch.evaluator.ops.registry import Flag, Int, Ints, Number, Tensor, Text, op

# Sampling modes that torch has -> its align_corners.
_ALIGNED = {"STRICT_ALIGN_CORNERS": True, "UNALIGN_CORNERS": False}


@op("upsample_nearest_neighbor")
def upsample_nearest_neighbor(x: Tensor, scale_factor_height: Number = 1, scale_factor_width: Number = 1) -> Tensor:
    sizes = _scaled_sizes(x, scale_factor_height, scale_factor_width)
    claim((*x.shape[:-2], *sizes), x.dtype)
    return F.interpolate(_planes(x), size=sizes, mode="nearest").reshape(*x.shape[:-2], *sizes)


@op("upsample_bilinear")
def upsample_bilinear(
    x: Tensor, scale_factor_height: Number = 1, scale_factor_width: Number = 1, align_corners: Flag = True,
    half_pixel_centers: Flag | None = None,
) -> Tensor:  # fmt: skip
    """``half_pixel_centers``: where corners are not aligned, which is then the default."""
    unaligned = "DEFAULT" if half_pixel_centers is False else "UNALIGN_CORNERS"
    mode = "STRICT_ALIGN_CORNERS" if align_corners else unaligned
    return _linear(x, _scaled_sizes(x, scale_factor_height, scale_factor_width), mode)


@op("resize_nearest_neighbor")
def resize_nearest_neighbor(x: Tensor, target_size_height: Int, target_size_width: Int) -> Tensor:
    return _nearest(x, (target_size_height, target_size_width), "DEFAULT")


@op("resize_bilinear")
def resize_bilinear(
    x: Tensor, target_size_height: Int = 1, target_size_width: Int = 1, sampling_mode: Text = "DEFAULT"
) -> Tensor:
    return _linear(x, (target_size_height, target_size_width), sampling_mode)


@op("resize")
def resize(
    x: Tensor, shape: Ints, resized_dims: Int, interpolation_mode: Text = "LINEAR", sampling_mode: Text = "DEFAULT"
) -> Tensor:
    """The last ``resized_dims`` of ``shape`` are sizes of the last axes of ``x``; 0 leaves an axis as it is."""
    wanted = shape[len(shape) - resized_dims :]
    sizes = [size or own for size, own in zip(wanted, x.shape[x.ndim - resized_dims :], strict=True)]
    if interpolation_mode == "NEAREST_NEIGHBOR":
        return _nearest(x, sizes, sampling_mode)
    if x.is_floating_point():
        return _linear(x, sizes, sampling_mode)
    return _linear(x.float(), sizes, sampling_mode).round().to(x.dtype)


@op("crop")
def crop(x: Tensor, crop_height: Ints, crop_width: Ints) -> Tensor:
    height, width = x.shape[-2:]
    return x[..., crop_height[0] : height - crop_height[1], crop_width[0] : width - crop_width[1]]


def _scaled_sizes(x: Tensor, *scales: float) -> list[int]:
    """Multiplied in float32, in which scales are stored: 10 times 0.7 is 7 then. The
    float32 nearest to 0.7 is a little less, so that float64 would give 6."""
    return [int(np.float32(scale) * np.float32(size)) for scale, size in zip(scales, x.shape[-2:], strict=True)]


def _planes(x: Tensor) -> Tensor:
    return x.reshape(1, -1, *x.shape[-2:])


def _linear(x: Tensor, sizes: Sequence[int], mode: str) -> Tensor:
    """The last axes resized, with linear interpolation along each."""
    _claim_resized(x, sizes)
    if mode in _ALIGNED and len(sizes) == 2:
        resized = F.interpolate(_planes(x), size=list(sizes), mode="bilinear", align_corners=_ALIGNED[mode])
        return resized.reshape(*x.shape[:-2], *sizes)
    for axis, size in enumerate(sizes, start=x.ndim - len(sizes)):
        low, high, part = _neighbours(_axis_points(x.shape[axis], size, mode, x.device), x.shape[axis])
        part = part.reshape(-1, *[1] * (x.ndim - axis - 1))
        x = torch.lerp(x.index_select(axis, low), x.index_select(axis, high), part)
    return x


def _nearest(x: Tensor, sizes: Sequence[int], mode: str) -> Tensor:
    """The last axes resized: each element is the one of ``x`` whose center is nearest, the later one of two.

    Unlike with interpolation, the default mode takes both images to cover the same area, corners not aligned.
    """
    _claim_resized(x, sizes)
    mode = "UNALIGN_CORNERS" if mode == "DEFAULT" else mode
    for axis, size in enumerate(sizes, start=x.ndim - len(sizes)):
        points = _axis_points(x.shape[axis], size, mode, x.device)
        x = x.index_select(axis, (points + 0.5).long())
    return x


def _claim_resized(x: Tensor, sizes: Sequence[int]) -> None:
    """Axes are resized one after another, which may make some larger before others get smaller."""
    own = x.shape[x.ndim - len(sizes) :]
    largest = (max(size, before) for size, before in zip(sizes, own, strict=True))
    claim((*x.shape[: x.ndim - len(sizes)], *largest), torch.float64)


def _axis_points(size: int, count: int, mode: str, device: torch.device) -> Tensor:
    return _points(torch.tensor(size - 1, dtype=torch.float64, device=device), count, mode).clamp(0, size - 1)


def _points(span: Tensor, count: int, mode: str) -> Tensor:
    """Where an interval from 0 to ``span`` is sampled ``count`` times, along a new last axis.

    In float64, so that the last point is exactly where it should be, and not beyond the image.
    """
    index = torch.arange(count, dtype=torch.float64, device=span.device)
    span = span[..., None]
    if mode == "ALIGN_CORNERS" and count == 1:
        return span / 2
    if mode in ("ALIGN_CORNERS", "STRICT_ALIGN_CORNERS"):
        return index * span / max(1, count - 1)
    if mode == "DEFAULT":
        points = index * (span + 1) / count
    elif mode == "OFFSET_CORNERS":
        points = (index + 0.5) * span.clamp(min=1) / count
    else:
        points = (index + 0.5) * (span + 1) / count - 0.5
    return torch.minimum(points.clamp(min=0), span)


def _neighbours(points: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each point the index before it, the index after it, and which part of the way between them it is at."""
    low = points.detach().floor().clamp(0, size - 1)
    return low.long(), (low + 1).clamp(max=size - 1).long(), (points - low).float()


_PADDINGS = {"constant": "zeros", "border": "border", "reflection": "reflection", "symmetric": "reflection"}


@op("resample")
def resample(
    x: Tensor, coordinates: Tensor, sampling_mode: Text, padding_mode: Text, padding_value: Number,
    coordinates_mode: Text, align_corners: Flag,
) -> Tensor:  # fmt: skip
    """``coordinates``: [b, h, w, 2], x before y. MIL's ``reflection`` mirrors at centers of pixels, ``symmetric`` at
    their edges. In torch that follows from ``align_corners``, which is set by it here and coordinates converted."""
    in_pixels = coordinates_mode == "unnormalized"
    aligned = {"reflection": True, "symmetric": False}.get(padding_mode.lower(), align_corners and not in_pixels)
    grid = _normalized(coordinates.to(x.dtype), x, coordinates_mode, align_corners, aligned)
    outside = padding_value if padding_mode.lower() == "constant" else 0
    sampled = F.grid_sample(x - outside, grid, sampling_mode.lower(), _PADDINGS[padding_mode.lower()], aligned)
    return sampled + outside


def _normalized(grid: Tensor, x: Tensor, mode: str, given: bool, wanted: bool) -> Tensor:
    """``grid`` as torch wants it: from -1 to 1 between the centers of the outer pixels if ``wanted`` (corners aligned),
    else between their edges. ``given``: whether normalized coordinates come with corners aligned."""
    size = torch.tensor([x.shape[-1], x.shape[-2]], dtype=grid.dtype, device=grid.device)
    if mode == "normalized_zero_to_one":
        grid = grid * 2 - 1
    if mode == "unnormalized":
        pixels = grid
    elif given == wanted:
        return grid
    else:
        pixels = (grid + 1) / 2 * (size - 1) if given else ((grid + 1) * size - 1) / 2
    return pixels * 2 / (size - 1).clamp(min=1) - 1 if wanted else (pixels * 2 + 1) / size - 1


@op("affine")
def affine(
    x: Tensor, transform_matrix: Tensor, output_height: Int, output_width: Int, sampling_mode: Text,
    padding_mode: Text, padding_value: Number, coordinates_mode: Text, align_corners: Flag,
) -> Tensor:  # fmt: skip
    batch, channels = x.shape[:2]
    claim((batch, max(2, channels), output_height, output_width))
    theta = transform_matrix.reshape(-1, 2, 3).expand(batch, 2, 3)
    grid = F.affine_grid(theta, [batch, channels, output_height, output_width], align_corners)
    return resample(x, grid, sampling_mode, padding_mode, padding_value, coordinates_mode.lower(), align_corners)


@op("crop_resize")
def crop_resize(
    x: Tensor, roi: Tensor | None = None, boxes: Tensor | None = None, box_indices: Tensor | None = None,
    target_height: Int = 1, target_width: Int = 1, normalized_coordinates: Flag = False, spatial_scale: Number = 1.0,
    box_coordinate_mode: Text = "CORNERS_HEIGHT_FIRST", sampling_mode: Text = "DEFAULT", pad_value: Number = 0.0,
) -> Tensor:  # fmt: skip
    """``roi``, up to iOS16: [N, 1, 4, 1, 1], boxes cut from every image, or [N, 1, 5, 1, 1], with the image's index
    in front. Since then ``boxes`` [N, 4], and ``box_indices`` [N], of images."""
    images = x.shape[0]
    if roi is not None:
        boxes = roi.reshape(roi.shape[0], -1)[:, -4:]
        every = roi.shape[2] == 4
        box_indices = torch.arange(images).repeat(len(boxes)) if every else roi[:, 0, 0, 0, 0]
        boxes = boxes.repeat_interleave(images, 0) if every else boxes
    assert boxes is not None
    index = torch.arange(len(boxes)) if box_indices is None else box_indices
    claim((len(boxes), x.shape[1], target_height, target_width), torch.float64)
    start, end = _corners(boxes.double() * spatial_scale, box_coordinate_mode)
    if normalized_coordinates:
        largest = torch.tensor([x.shape[-2] - 1, x.shape[-1] - 1], dtype=start.dtype, device=x.device)
        start, end = start * largest, end * largest
    points = [
        start[:, axis, None] + _points(end[:, axis] - start[:, axis], count, sampling_mode)
        for axis, count in enumerate((target_height, target_width))
    ]
    crops = _sampled(x, index.to(x.device).long(), points[0][:, :, None], points[1][:, None, :], pad_value)
    return crops if roi is None else crops.reshape(roi.shape[0], -1, *crops.shape[1:])


def _corners(boxes: Tensor, mode: str) -> tuple[Tensor, Tensor]:
    """First and last (row, column) of each box."""
    first, second = boxes[:, :2], boxes[:, 2:]
    if mode.endswith("WIDTH_FIRST"):
        first, second = first.flip(-1), second.flip(-1)
    return (first - second / 2, first + second / 2) if mode.startswith("CENTER_SIZE") else (first, second)


def _sampled(x: Tensor, index: Tensor, rows: Tensor, columns: Tensor, pad: float) -> Tensor:
    """[N, c, h, w] of images ``index`` at ``rows`` [N, h, 1] and ``columns`` [N, 1, w]; ``pad`` outside of them."""
    height, width = x.shape[-2:]
    top, bottom, down = _neighbours(rows, height)
    left, right, across = _neighbours(columns, width)
    image = index[:, None, None]
    across = across[..., None]  # to broadcast: indexing all axes but the channels puts these last
    above = torch.lerp(x[image, :, top, left], x[image, :, top, right], across)
    below = torch.lerp(x[image, :, bottom, left], x[image, :, bottom, right], across)
    outside = (rows < 0) | (rows > height - 1) | (columns < 0) | (columns > width - 1)
    sampled = torch.lerp(above, below, down[..., None])
    return sampled.masked_fill(outside[..., None], pad).movedim(-1, 1)
