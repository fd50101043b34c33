"""Convolutions, and the padding they share with pools."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from mil_palettize.torch.evaluator.memory import claim
from mil_palettize.torch.evaluator.ops.registry import Int, Ints, Tensor, Text, op

Pads = list[tuple[int, int]]  # before and after, by axis
SAME = ("same", "same_lower")
CONVOLUTIONS: dict[int, Callable[..., torch.Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED: dict[int, Callable[..., torch.Tensor]] = {
    1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d,
}  # fmt: skip


def pads_of(pad_type: str, sizes: Sequence[int], extents: Sequence[int], strides: Sequence[int], pad: Ints) -> Pads:
    """The padding before and after each axis. ``sizes``: of the input; ``extents``: of the window, dilation included;
    ``pad``: what is given for ``custom``.

    ``same`` gives ``ceil(size / stride)`` windows and puts an odd element at the end, ``same_lower`` at the beginning.
    """
    pad_type = pad_type.lower()
    if pad_type == "valid":
        return [(0, 0)] * len(sizes)
    if pad_type == "custom":
        return list(zip(pad[::2], pad[1::2], strict=True))
    if pad_type not in SAME:
        raise ValueError(f"pad_type is {pad_type!r}")
    totals = [
        max(0, (-(-size // stride) - 1) * stride + extent - size)
        for size, extent, stride in zip(sizes, extents, strides, strict=True)
    ]
    halves = [(total // 2, total - total // 2) for total in totals]
    return halves if pad_type == "same" else [(more, less) for less, more in halves]


def padded(x: torch.Tensor, pads: Pads, value: float = 0.0) -> torch.Tensor:
    """``x`` padded along its last axes; negative pads cut elements off instead."""
    if not any(before or after for before, after in pads):
        return x
    sizes = zip(x.shape[2:], pads, strict=True)
    claim((*x.shape[:2], *(size + sum(pair) for size, pair in sizes)), x.dtype)
    return F.pad(x, [size for pair in reversed(pads) for size in pair], value=value)


def _extents(weight: torch.Tensor, dilations: Sequence[int]) -> list[int]:
    return [(size - 1) * dilation + 1 for size, dilation in zip(weight.shape[2:], dilations, strict=True)]


def _claim_windows(x: torch.Tensor, weight: torch.Tensor, strides: Sequence[int], pads: Pads) -> None:
    """One for each stride at most."""
    counts = ((size + sum(pair)) // stride + 1 for size, stride, pair in zip(x.shape[2:], strides, pads, strict=True))
    claim((x.shape[0], weight.shape[0], *counts), x.dtype)


@op("conv")
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Ints | None = None,
    pad_type: Text = "valid",
    pad: Ints | None = None,
    dilations: Ints | None = None,
    groups: Int = 1,
) -> Tensor:
    rank = x.ndim - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    pads = pads_of(pad_type, x.shape[2:], _extents(weight, dilations), strides, pad or [0] * 2 * rank)
    if any(before != after or before < 0 for before, after in pads):  # torch pads both ends alike
        x, pads = padded(x, pads), [(0, 0)] * rank
    _claim_windows(x, weight, strides, pads)
    return CONVOLUTIONS[rank](x, weight, bias, strides, [before for before, _ in pads], dilations, groups)


@op("conv_quantized")
def conv_quantized(
    x: Tensor,
    weight: Tensor,
    quantization_type: Text,
    quant_scale: Tensor,
    quant_bias: Tensor,
    nbits: Int = 8,
    bias: Tensor | None = None,
    strides: Ints | None = None,
    pad_type: Text = "valid",
    pad: Ints | None = None,
    dilations: Ints | None = None,
    groups: Int = 1,
) -> Tensor:
    """``quant_scale`` and ``quant_bias``: one, or one for each output channel. Of the two types of quantization only
    ``linear`` can be run: for look-up tables the op has no parameter to hold one."""
    if quantization_type.lower() != "linear":
        raise ValueError(f"quantization_type is {quantization_type!r}")
    channels = (-1, *[1] * (weight.ndim - 1))
    dense = weight.to(x.dtype) * quant_scale.reshape(channels) + quant_bias.reshape(channels)
    bias = None if bias is None else bias.to(x.dtype)
    return conv(x, dense, bias, strides, pad_type, pad, dilations, groups)


@op("conv_transpose")
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: Ints | None = None,
    output_shape: Ints | None = None,
    pad_type: Text = "valid",
    strides: Ints | None = None,
    dilations: Ints | None = None,
    groups: Int = 1,
) -> Tensor:
    """The gradient of a ``conv`` of these parameters whose input has the size of this op's output. Where that ``conv``
    would pad its input, the result is cut off; where it would never look, the result is zero, before ``bias``."""
    rank = x.ndim - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    extents = _extents(weight, dilations)
    spread = [(n - 1) * by + more for n, by, more in zip(x.shape[2:], strides, extents, strict=True)]
    claim((x.shape[0], weight.shape[1] * groups, *spread), x.dtype)
    full = TRANSPOSED[rank](x, weight, None, strides, 0, 0, groups, dilations)
    sizes = [size * stride for size, stride in zip(x.shape[2:], strides, strict=True)]
    if output_shape is not None:
        sizes = list(output_shape[2:])
    pads = pads_of(pad_type, sizes, extents, strides, pad or [0] * 2 * rank)
    if output_shape is None and pad_type.lower() not in SAME:
        sizes = [size - before - after for size, (before, after) in zip(full.shape[2:], pads, strict=True)]
    spans = zip(full.shape[2:], sizes, pads, strict=True)
    y = padded(full, [(-before, before + size - whole) for whole, size, (before, _) in spans])
    return y if bias is None else y + bias.reshape(-1, *[1] * rank)
