"""Pools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, prod

import torch
from torch.nn import functional as F

from mil_palettize.torch.evaluator.ops.conv import Pads, padded, pads_of
from mil_palettize.torch.evaluator.ops.registry import Flag, Ints, Tensor, Text, op

AVERAGES: dict[int, Callable[..., torch.Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
MAXIMA: dict[int, Callable[..., torch.Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


class _Windows:
    """Where windows lie. ``pads``: before and after each axis; ``ends``: what ``ceil_mode`` adds at the end of that, so
    that the last window is whole."""

    def __init__(
        self,
        sizes: Sequence[int],
        kernel: Sequence[int],
        strides: Ints | None,
        pad_type: str,
        pad: Ints | None,
        ceil_mode: bool,
    ) -> None:
        self.kernel = kernel
        self.strides = strides or [1] * len(sizes)
        self.pads = pads_of(pad_type, sizes, kernel, self.strides, pad or [0] * 2 * len(sizes))
        axes = zip(sizes, kernel, self.strides, self.pads, strict=True)
        self.ends: Pads = [(0, _ceiling(*axis) if ceil_mode else 0) for axis in axes]

    @property
    def around(self) -> Pads:
        return [(before, after + more) for (before, after), (_, more) in zip(self.pads, self.ends, strict=True)]

    def averages(self, x: torch.Tensor) -> torch.Tensor:
        """The mean of each window of ``x``, which is padded already."""
        return AVERAGES[len(self.kernel)](x, self.kernel, self.strides)


def _ceiling(size: int, kernel: int, stride: int, pads: tuple[int, int]) -> int:
    """How many elements to add at the end: as many as the last window lacks; below zero, as many as no window reaches.
    A last window that would begin after the input is left out, except where nothing is padded."""
    whole = size + sum(pads)
    count = (whole - kernel + stride - 1) // stride + 1
    if (count - 1) * stride >= size + pads[0] and sum(pads) > 0:
        count -= 1
    return (count - 1) * stride + kernel - whole


@op("avg_pool")
def avg_pool(
    x: Tensor,
    kernel_sizes: Ints,
    pad_type: Text,
    strides: Ints | None = None,
    pad: Ints | None = None,
    exclude_padding_from_average: Flag = False,
    ceil_mode: Flag = False,
) -> Tensor:
    """Elements that only ``ceil_mode`` adds never count in an average, whatever is said of the padding."""
    windows = _Windows(x.shape[2:], kernel_sizes, strides, pad_type, pad, ceil_mode)
    found = windows.averages(padded(x, windows.around))
    uncounted = windows.around if exclude_padding_from_average else windows.ends
    if not any(before or after for before, after in uncounted):
        return found
    counted = torch.ones_like(x[:1, :1])
    if not exclude_padding_from_average:
        counted = padded(counted, windows.pads, 1.0)
    share = windows.averages(padded(counted, uncounted))
    return found / share.clamp(min=0.5 / prod(kernel_sizes))  # 0 / 0 where nothing in a window counts becomes 0


@op("l2_pool")
def l2_pool(
    x: Tensor,
    kernel_sizes: Ints,
    pad_type: Text,
    strides: Ints | None = None,
    pad: Ints | None = None,
    ceil_mode: Flag = False,
) -> Tensor:
    """The root of the sum, not of the mean, of the squares."""
    windows = _Windows(x.shape[2:], kernel_sizes, strides, pad_type, pad, ceil_mode)
    return (windows.averages(padded(x.square(), windows.around)) * prod(kernel_sizes)).sqrt()


@op("max_pool")
def max_pool(
    x: Tensor,
    kernel_sizes: Ints,
    pad_type: Text,
    strides: Ints | None = None,
    pad: Ints | None = None,
    ceil_mode: Flag = False,
) -> Tensor:
    windows = _Windows(x.shape[2:], kernel_sizes, strides, pad_type, pad, ceil_mode)
    return MAXIMA[len(kernel_sizes)](padded(x, windows.around, -inf), kernel_sizes, windows.strides)
