"""Convolutions, against sums written with numpy, and against the torch modules that convert to them."""

from __future__ import annotations

from itertools import product

import coremltools as ct
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

torch = pytest.importorskip("torch")

from evaluator import against_torch, evaluated, mb, same  # noqa: E402

from mil_palettize.torch.evaluator.ops import OPS  # noqa: E402


def values(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def along(x: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Of channels, to add to ``x``."""
    return vector.reshape(-1, *[1] * (x.ndim - 2))


def convolved(x, weight, strides, pads, dilations, groups) -> np.ndarray:
    axes = tuple(range(2, x.ndim))
    extents = [(size - 1) * dilation + 1 for size, dilation in zip(weight.shape[2:], dilations, strict=True)]
    windows = sliding_window_view(np.pad(x, [(0, 0), (0, 0), *pads]), extents, axis=axes)
    windows = windows[(..., *(slice(None, None, dilation) for dilation in dilations))]
    windows = windows[(slice(None), slice(None), *(slice(None, None, stride) for stride in strides))]
    summed = (1, *range(x.ndim, windows.ndim))  # a channel, and the elements of a window
    parts = [
        np.tensordot(some, weights, (summed, (1, *axes)))
        for some, weights in zip(np.split(windows, groups, 1), np.split(weight, groups), strict=True)
    ]
    return np.moveaxis(np.concatenate(parts, -1), -1, 1)


# shape, kernel, strides, dilations, groups, pad_type, pad, and what that pads, worked out by hand.
CASES = [
    ((2, 4, 7), (3,), (1,), (1,), 1, "valid", None, [(0, 0)]),
    ((2, 4, 7), (4,), (3,), (1,), 2, "same", None, [(1, 2)]),
    ((2, 4, 7), (4,), (3,), (1,), 4, "same_lower", None, [(2, 1)]),
    ((2, 4, 7), (2,), (2,), (3,), 1, "custom", [2, 1], [(2, 1)]),
    ((2, 4, 7), (1,), (4,), (1,), 1, "same", None, [(0, 0)]),
    ((1, 4, 6, 5), (2, 3), (1, 2), (2, 1), 1, "valid", None, [(0, 0), (0, 0)]),
    ((1, 4, 6, 5), (2, 3), (2, 3), (2, 1), 2, "same", None, [(0, 1), (0, 1)]),
    ((1, 4, 6, 5), (2, 3), (2, 3), (2, 1), 2, "same_lower", None, [(1, 0), (1, 0)]),
    ((1, 4, 6, 5), (3, 3), (1, 1), (1, 2), 4, "same", None, [(1, 1), (2, 2)]),
    ((1, 4, 6, 5), (2, 3), (2, 1), (1, 1), 1, "custom", [1, 0, 0, 2], [(1, 0), (0, 2)]),
    ((1, 4, 6, 5), (3, 3), (2, 2), (1, 1), 1, "custom", [1, 1, 2, 2], [(1, 1), (2, 2)]),
    ((1, 2, 4, 5, 3), (2, 2, 3), (1, 2, 1), (1, 1, 1), 1, "same", None, [(0, 1), (0, 1), (1, 1)]),
    ((1, 2, 4, 5, 3), (2, 2, 3), (1, 2, 1), (1, 1, 1), 2, "same_lower", None, [(1, 0), (1, 0), (1, 1)]),
    ((1, 2, 4, 5, 3), (2, 2, 2), (1, 1, 2), (1, 2, 1), 1, "custom", [0, 1, 2, 0, 1, 1], [(0, 1), (2, 0), (1, 1)]),
]


@pytest.mark.parametrize(("shape", "kernel", "strides", "dilations", "groups", "pad_type", "pad", "pads"), CASES)
def test_conv(shape, kernel, strides, dilations, groups, pad_type, pad, pads):
    x, weight, bias = values(shape), values((4, shape[1] // groups, *kernel), 1), values((4,), 2)
    options = {"strides": strides, "dilations": dilations, "groups": groups, "pad_type": pad_type}
    if pad is not None:
        options["pad"] = pad
    declared = []

    def build(x):
        found = mb.conv(x=x, weight=weight, **options), mb.conv(x=x, weight=weight, bias=bias, **options)
        declared[:] = [y.shape for y in found]
        return found

    expected = convolved(x, weight, strides, pads, dilations, groups)
    found = evaluated(build, x)
    same(found, [expected, expected + along(x, bias)], rtol=1e-4, atol=1e-5)
    assert [array.shape for array in found] == declared


@pytest.mark.parametrize("target", [ct.target.iOS15, ct.target.iOS17])
def test_a_weight_that_is_computed(target):
    x, weight, bias = values((1, 4, 6, 5)), values((6, 2, 3, 3), 1), values((6,), 2)

    def build(x, weight):
        return mb.conv(x=x, weight=weight, bias=bias, groups=2), mb.conv(x=x, weight=mb.mul(x=weight, y=2.0), groups=2)

    once = convolved(x, weight, (1, 1), [(0, 0)] * 2, (1, 1), 2)
    same(evaluated(build, x, weight, target=target), [once + along(x, bias), 2 * once], rtol=1e-4, atol=1e-5)


def test_a_weight_of_another_type():
    x, weight = values((1, 2, 5)), values((3, 2, 2), 1).astype(np.float16)
    expected = convolved(x, weight.astype(np.float32), (1,), [(0, 0)], (1,), 1)
    same(evaluated(lambda x: mb.conv(x=x, weight=weight), x), [expected], atol=1e-5)


@pytest.mark.parametrize("each", [True, False], ids=["for each channel", "one"])
def test_conv_quantized(each):
    x = values((1, 4, 6, 5))
    codes = np.random.default_rng(1).integers(0, 256, (6, 2, 3, 3)).astype(np.uint8)
    scale, offset = (values((6,), 3), values((6,), 4)) if each else (values((1,), 3), values((1,), 4))
    dense = codes * scale.reshape(-1, 1, 1, 1) + offset.reshape(-1, 1, 1, 1)
    bias = np.arange(6, dtype=np.uint8)
    options = {"quantization_type": "linear", "quant_scale": scale, "quant_bias": offset, "groups": 2}

    def build(x):
        return (
            mb.conv_quantized(x=x, weight=codes, **options),
            mb.conv_quantized(x=x, weight=codes, bias=bias, nbits=8, strides=[2, 1], pad_type="same", **options),
        )

    expected = [
        convolved(x, dense, (1, 1), [(0, 0), (0, 0)], (1, 1), 2),
        convolved(x, dense, (2, 1), [(0, 1), (1, 1)], (1, 1), 2) + along(x, bias),
    ]
    same(evaluated(build, x), expected, rtol=1e-4, atol=1e-3)


def test_conv_quantized_by_a_table():
    x, weight, one = torch.zeros(1, 1, 3), torch.zeros(1, 1, 1, dtype=torch.uint8), torch.ones(1)
    with pytest.raises(ValueError, match="lut"):
        OPS["conv_quantized"].function(x, weight, "lut", one, one)


def transposed(x, weight, strides, dilations, groups) -> np.ndarray:
    """All that the kernels reach: every element of the input adds a kernel to the output."""
    per_group = weight.shape[1]
    spatial = [
        (size - 1) * stride + (extent - 1) * dilation + 1
        for size, stride, extent, dilation in zip(x.shape[2:], strides, weight.shape[2:], dilations, strict=True)
    ]
    full = np.zeros((x.shape[0], per_group * groups, *spatial))
    inputs = x.shape[1] // groups
    for group, at in product(range(groups), product(*map(range, weight.shape[2:]))):
        some = slice(group * inputs, (group + 1) * inputs)
        where = [
            slice(place * dilation, place * dilation + (size - 1) * stride + 1, stride)
            for place, dilation, size, stride in zip(at, dilations, x.shape[2:], strides, strict=True)
        ]
        part = np.tensordot(x[:, some], weight[(some, slice(None), *at)], (1, 0))
        full[(slice(None), slice(group * per_group, (group + 1) * per_group), *where)] += np.moveaxis(part, -1, 1)
    return full


# shape, kernel, strides, dilations, groups, pad_type, pad, spatial output_shape, and where the output begins in all
# that the kernels reach, and its size, worked out by hand.
TRANSPOSED = [
    ((2, 4, 5), (4,), (2,), (1,), 1, "valid", None, None, [0], [12]),
    ((2, 4, 5), (4,), (2,), (1,), 2, "same", None, None, [1], [10]),
    ((2, 4, 5), (3,), (2,), (1,), 1, "same", None, None, [0], [10]),
    ((2, 4, 5), (1,), (3,), (1,), 1, "same", None, None, [0], [15]),
    ((2, 4, 5), (4,), (2,), (1,), 1, "custom", [2, 1], None, [2], [9]),
    ((2, 4, 5), (4,), (2,), (1,), 1, "same", None, [9], [1], [9]),
    ((2, 4, 5), (4,), (2,), (1,), 1, "valid", None, [13], [0], [13]),
    ((2, 4, 5), (4,), (2,), (1,), 1, "custom", [2, 1], [10], [2], [10]),
    ((1, 4, 4, 3), (3, 2), (2, 1), (2, 1), 1, "valid", None, None, [0, 0], [11, 4]),
    ((1, 4, 4, 3), (3, 2), (2, 1), (2, 1), 2, "same", None, None, [1, 0], [8, 3]),
    ((1, 4, 4, 3), (3, 3), (2, 3), (1, 1), 4, "custom", [1, 0, 0, 2], None, [1, 0], [8, 7]),
    ((1, 2, 2, 3, 2), (2, 2, 3), (1, 2, 2), (2, 1, 1), 2, "valid", None, None, [0, 0, 0], [4, 6, 5]),
    ((1, 2, 2, 3, 2), (2, 2, 3), (1, 2, 2), (2, 1, 1), 1, "custom", [1, 1, 0, 1, 1, 0], None, [1, 0, 1], [2, 5, 4]),
    ((1, 2, 2, 3, 2), (2, 2, 3), (1, 2, 2), (1, 1, 1), 1, "same", None, None, [0, 0, 0], [2, 6, 4]),
]


@pytest.mark.parametrize(
    ("shape", "kernel", "strides", "dilations", "groups", "pad_type", "pad", "output", "begin", "size"), TRANSPOSED
)
def test_conv_transpose(shape, kernel, strides, dilations, groups, pad_type, pad, output, begin, size):
    x, weight, bias = values(shape), values((shape[1], 2, *kernel), 1), values((2 * groups,), 2)
    options = {"strides": strides, "dilations": dilations, "groups": groups, "pad_type": pad_type}
    if pad is not None:
        options["pad"] = pad
    if output is not None:
        options["output_shape"] = [shape[0], 2 * groups, *output]
    declared = []

    def build(x):
        found = (
            mb.conv_transpose(x=x, weight=weight, **options),
            mb.conv_transpose(x=x, weight=weight, bias=bias, **options),
        )
        declared[:] = [tuple(y.shape) for y in found]
        return found

    full = transposed(x, weight, strides, dilations, groups)
    expected = np.zeros((*full.shape[:2], *size))
    part = full[(..., *(slice(b, b + s) for b, s in zip(begin, size, strict=True)))]
    expected[tuple(map(slice, part.shape))] = part
    found = evaluated(build, x)
    same(found, [expected, expected + along(x, bias)], rtol=1e-4, atol=1e-5)
    assert [array.shape for array in found] == declared


def test_a_computed_weight_of_conv_transpose():
    x, weight = values((1, 4, 3)), values((4, 2, 2), 1)
    found = evaluated(lambda x, weight: mb.conv_transpose(x=x, weight=weight, strides=[2]), x, weight)
    same(found, [transposed(x, weight, (2,), (1,), 1)], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pad_type", ["same", "same_lower"])
def test_conv_transpose_is_the_gradient_of_conv(pad_type):
    """Of a convolution that pads unevenly."""
    x = torch.as_tensor(values((1, 2, 11, 12))).requires_grad_()
    weight = torch.as_tensor(values((3, 2, 4, 3), 1))
    options = {"strides": [3, 2], "pad_type": pad_type}
    y = OPS["conv"].function(x, weight, **options)
    upstream = torch.as_tensor(values(tuple(y.shape), 2))
    y.backward(upstream)
    back = OPS["conv_transpose"].function(upstream, weight, output_shape=list(x.shape), **options)
    torch.testing.assert_close(back, x.grad)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_converted(axes):
    conv = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d}[axes]
    back = {1: torch.nn.ConvTranspose1d, 2: torch.nn.ConvTranspose2d, 3: torch.nn.ConvTranspose3d}[axes]
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        conv(4, 6, 2, padding="same"),
        conv(6, 6, 3, stride=2, padding=2, dilation=2, groups=3),
        conv(6, 4, 4, padding="same", dilation=2, bias=False),
        back(4, 6, 3, stride=2, padding=1, groups=2),
        back(6, 2, 2, stride=2, padding=1, output_padding=1 if axes < 3 else 0),
    )
    against_torch(module, values((1, 4, 8, 7, 6)[: axes + 2]))
