"""What a convolution multiplies its kernel with, at some of its output positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mil_palettize.torch.evaluator.ops.conv import pads_of


def conv_inputs(arguments: Mapping[str, Any], positions: int, random: np.random.Generator) -> tuple[torch.Tensor, int]:
    """(groups, at most ``positions`` of each image, channels of a group × kernel), and how many positions there are.

    ``random``: draws which are looked at, the same for all images of a batch.
    """
    x, shape = arguments["x"], _conv_shape(arguments)
    chosen = _chosen(shape.sizes, positions, random)
    places = []
    for axis, kernel in enumerate(arguments["weight"].shape[2:]):
        size = x.shape[2 + axis]
        taken = np.arange(kernel) * shape.dilations[axis]
        place = chosen[:, axis, None] * shape.strides[axis] - shape.before[axis] + taken
        places.append(np.where((place >= 0) & (place < size), place, size))
    return _taken(x, places, int(arguments.get("groups") or 1)), int(np.prod(shape.sizes))


def conv_outputs(
    arguments: Mapping[str, Any], output: torch.Tensor, positions: int, random: np.random.Generator
) -> torch.Tensor | None:
    """``output``, a tensor of the output's shape, at the positions that :func:`conv_inputs` takes: (groups, positions
    of all images, channels of a group); None where its shape is another."""
    batch, channels, groups = len(arguments["x"]), len(arguments["weight"]), int(arguments.get("groups") or 1)
    sizes = _conv_shape(arguments).sizes
    if tuple(output.shape) != (batch, channels, *sizes):
        return None
    chosen = np.ravel_multi_index(tuple(_chosen(sizes, positions, random).T), tuple(sizes))
    taken = output.reshape(batch, groups, channels // groups, -1)[..., torch.from_numpy(chosen).to(output.device)]
    return taken.permute(1, 0, 3, 2).reshape(groups, -1, channels // groups)


@dataclass(frozen=True)
class _ConvShape:
    """``sizes``: of the output; ``before``: zeros in front of the input. By axis, as the others."""

    sizes: list[int]
    before: list[int]
    strides: Sequence[int]
    dilations: Sequence[int]


def _conv_shape(arguments: Mapping[str, Any]) -> _ConvShape:
    x, kernel = arguments["x"], arguments["weight"].shape[2:]
    rank = len(kernel)
    strides, dilations = arguments.get("strides") or [1] * rank, arguments.get("dilations") or [1] * rank
    extents = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    pad_type, pad = arguments.get("pad_type", "valid"), arguments.get("pad") or [0] * 2 * rank
    pads = pads_of(pad_type, x.shape[2:], extents, strides, pad)
    padded = zip(x.shape[2:], pads, extents, strides, strict=True)
    sizes = [(size + sum(pad) - extent) // stride + 1 for size, pad, extent, stride in padded]
    return _ConvShape(sizes, [before for before, _ in pads], strides, dilations)


def conv_transpose_inputs(
    arguments: Mapping[str, Any], positions: int, random: np.random.Generator, sizes: Sequence[int]
) -> tuple[torch.Tensor, int]:
    """As :func:`conv_inputs`, zeros for elements of the kernel that no input meets; ``sizes``: of the output."""
    x, kernel, groups = arguments["x"], arguments["weight"].shape[2:], int(arguments.get("groups") or 1)
    rank = len(kernel)
    strides, dilations = arguments.get("strides") or [1] * rank, arguments.get("dilations") or [1] * rank
    extents = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    pad_type, shape = arguments.get("pad_type", "valid"), arguments.get("output_shape")
    whole = [size * stride for size, stride in zip(x.shape[2:], strides, strict=True)]
    spans = list(shape[2:]) if shape is not None else whole
    pads = pads_of(pad_type, spans, extents, strides, arguments.get("pad") or [0] * 2 * rank)
    chosen = _chosen(sizes, positions, random)
    places = []
    for axis in range(rank):
        size = x.shape[2 + axis]
        reached = chosen[:, axis, None] + pads[axis][0] - np.arange(kernel[axis]) * dilations[axis]
        place, off = reached // strides[axis], reached % strides[axis]
        places.append(np.where((off == 0) & (place >= 0) & (place < size), place, size))
    return _taken(x, places, groups), int(np.prod(sizes))


def _chosen(sizes: Sequence[int], positions: int, random: np.random.Generator) -> np.ndarray:
    """Output positions, int64 (count, axes)."""
    count = int(np.prod(sizes))
    flat = np.arange(count) if count <= positions else np.sort(random.choice(count, positions, replace=False))
    return np.stack(np.unravel_index(flat, sizes), axis=1)


def _taken(x: torch.Tensor, places: Sequence[np.ndarray], groups: int) -> torch.Tensor:
    """``places``: by axis int64 (positions, kernel), the size of the axis for a zero. (groups, batch × positions,
    channels of a group × kernel)."""
    rank, positions, whole = len(places), len(places[0]), int(np.prod(x.shape[2:]))
    flat, outside = np.zeros((positions,) + (1,) * rank, np.int64), np.zeros((positions,) + (1,) * rank, bool)
    for axis, (place, size) in enumerate(zip(places, x.shape[2:], strict=True)):
        shape = [positions, *(place.shape[1] if other == axis else 1 for other in range(rank))]
        flat, outside = flat * size + place.reshape(shape), outside | (place == size).reshape(shape)
    numbers = np.where(outside, whole, flat).reshape(-1)
    batch, channels = x.shape[:2]
    zeroed = torch.nn.functional.pad(x.reshape(batch, channels, whole), [0, 1])
    taken = zeroed.index_select(2, torch.from_numpy(numbers).to(x.device))  # far quicker than an index for each axis
    apart = taken.reshape(batch, groups, channels // groups, positions, -1)
    return apart.permute(1, 0, 3, 2, 4).reshape(groups, batch * positions, -1)


def kernel_layout(index: np.ndarray, groups: int, *, transposed: bool) -> np.ndarray:
    """Places of a kernel's elements as matrices: (groups, output channels of a group, input channels × kernel)."""
    if transposed:  # (input channels, output channels of a group, *kernel)
        inputs, outputs = index.shape[:2]
        apart = index.reshape(groups, inputs // groups, outputs, -1)
        return np.ascontiguousarray(apart.transpose(0, 2, 1, 3)).reshape(groups, outputs, -1)
    return index.reshape(groups, index.shape[0] // groups, -1)
