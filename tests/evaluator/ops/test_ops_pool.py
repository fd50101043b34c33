"""Pools, against windows taken with numpy, and against the torch modules that convert to them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

torch = pytest.importorskip("torch")

from evaluator import against_torch, evaluated, mb, same  # noqa: E402

from mil_palettize.torch.evaluator.ops import OPS  # noqa: E402


def values(shape: tuple[int, ...]) -> np.ndarray:
    """Many of them negative: zeros of a padding would win a maximum."""
    return (np.random.default_rng(0).standard_normal(shape) - 1).astype(np.float32)


def windows(x: np.ndarray, kernel, strides, pads, value: float = 0.0) -> np.ndarray:
    """Windows of a padded array, the elements of each along the last axis."""
    whole = np.pad(x, [(0, 0), (0, 0), *pads], constant_values=value)
    found = sliding_window_view(whole, kernel, axis=tuple(range(2, x.ndim)))
    found = found[(slice(None), slice(None), *(slice(None, None, stride) for stride in strides))]
    return found.reshape(*found.shape[: x.ndim], -1)


# shape, kernel, strides, pad_type, pad, and what that pads, worked out by hand.
CASES = [
    ((2, 3, 7), (3,), (2,), "valid", None, [(0, 0)]),
    ((2, 3, 7), (3,), (2,), "same", None, [(1, 1)]),
    ((2, 3, 7), (4,), (3,), "same", None, [(1, 2)]),
    ((2, 3, 7), (4,), (3,), "same_lower", None, [(2, 1)]),
    ((2, 3, 7), (1,), (4,), "same", None, [(0, 0)]),
    ((2, 3, 7), (4,), (1,), "custom", [3, 1], [(3, 1)]),
    ((2, 2, 5, 6), (2, 3), (1, 2), "valid", None, [(0, 0), (0, 0)]),
    ((2, 2, 5, 6), (2, 3), (2, 4), "same", None, [(0, 1), (0, 1)]),
    ((2, 2, 5, 6), (2, 3), (2, 4), "same_lower", None, [(1, 0), (1, 0)]),
    ((2, 2, 5, 6), (3, 3), (1, 2), "custom", [1, 0, 0, 2], [(1, 0), (0, 2)]),
    ((1, 2, 4, 5, 3), (2, 2, 3), (1, 2, 1), "valid", None, [(0, 0), (0, 0), (0, 0)]),
    ((1, 2, 4, 5, 3), (2, 2, 3), (1, 2, 1), "same", None, [(0, 1), (0, 1), (1, 1)]),
    ((1, 2, 4, 5, 3), (2, 2, 3), (1, 2, 1), "same_lower", None, [(1, 0), (1, 0), (1, 1)]),
    ((1, 2, 4, 5, 3), (2, 3, 2), (1, 2, 1), "custom", [0, 1, 2, 0, 1, 1], [(0, 1), (2, 0), (1, 1)]),
]


@pytest.mark.parametrize(("shape", "kernel", "strides", "pad_type", "pad", "pads"), CASES)
def test_pads(shape, kernel, strides, pad_type, pad, pads):
    x = values(shape)
    options = {"kernel_sizes": kernel, "strides": strides, "pad_type": pad_type}
    if pad is not None:
        options["pad"] = pad
    declared = []

    def build(x):
        found = [
            mb.max_pool(x=x, **options),
            mb.avg_pool(x=x, **options),
            mb.avg_pool(x=x, exclude_padding_from_average=True, **options),
        ]
        if len(kernel) < 3:
            found.append(mb.l2_pool(x=x, **options))
        declared[:] = [y.shape for y in found]
        return found

    inside = windows(x, kernel, strides, pads)
    counted = windows(np.ones_like(x), kernel, strides, pads)
    expected = [
        windows(x, kernel, strides, pads, -np.inf).max(-1),
        inside.mean(-1),
        inside.sum(-1) / counted.sum(-1),
        np.sqrt((inside**2).sum(-1)),
    ]
    found = evaluated(build, x)
    same(found, expected[: len(found)])
    assert [array.shape for array in found] == declared


def test_default_strides():
    x = values((1, 2, 5))
    found = evaluated(lambda x: mb.max_pool(x=x, kernel_sizes=[2], pad_type="valid"), x)
    same(found, [np.maximum(x[..., 1:], x[..., :-1])])


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pad"), [(7, 2, 2, 0), (6, 3, 2, 1), (10, 3, 2, 0), (15, 2, 2, 1), (8, 3, 4, 1)]
)
def test_ceil_mode(size, kernel, stride, pad):
    """As torch has it: what is added at the end is neither a maximum nor counted, other padding is if it shall be."""
    declared = []
    x = values((1, 2, size, size + 1))
    options = {"kernel_sizes": [kernel, kernel], "strides": [stride, stride], "pad_type": "custom", "ceil_mode": True}
    options["pad"] = [pad] * 4

    def build(x):
        found = (
            mb.max_pool(x=x, **options),
            mb.avg_pool(x=x, **options),
            mb.avg_pool(x=x, exclude_padding_from_average=True, **options),
            mb.l2_pool(x=x, **options),
        )
        declared[:] = [y.shape for y in found]
        return found

    tensor = torch.as_tensor(x)
    pool = torch.nn.functional.avg_pool2d
    expected = [
        torch.nn.functional.max_pool2d(tensor, kernel, stride, pad, ceil_mode=True),
        pool(tensor, kernel, stride, pad, ceil_mode=True),
        pool(tensor, kernel, stride, pad, ceil_mode=True, count_include_pad=False),
        pool(tensor**2, kernel, stride, pad, ceil_mode=True, divisor_override=1).sqrt(),
    ]
    found = evaluated(build, x)
    same(found, [array.numpy() for array in expected])
    assert [array.shape for array in found] == declared


def test_a_last_window_of_nothing():
    """``ceil_mode`` adds one where a stride is larger than the kernel and nothing is padded."""
    x = np.arange(1, 5, dtype=np.float32).reshape(1, 1, 4)
    options = {"kernel_sizes": [1], "strides": [2], "pad_type": "valid", "ceil_mode": True}

    def build(x):
        return mb.max_pool(x=x, **options), mb.avg_pool(x=x, **options)

    same(evaluated(build, x), [np.array([[[1, 3, -np.inf]]], np.float32), np.array([[[1, 3, 0]]], np.float32)])


def test_pools_of_a_device():
    """What coremltools' tests expect of Core ML."""
    x = np.arange(1, 8, dtype=np.float32).reshape(1, 1, 7)
    square = np.array([[[[-10.0, -6.0], [-7.0, 9.0]], [[-3.0, 0.0], [11.0, 7.0]]]], np.float32)
    lower = np.arange(1, 5, dtype=np.float32).reshape(1, 1, 2, 2)

    def build(x, square, lower):
        line = {"x": x, "kernel_sizes": [3], "strides": [3], "pad_type": "same"}
        corner = {"x": lower, "kernel_sizes": [2, 2], "pad_type": "same_lower"}
        return (
            mb.max_pool(**line),
            mb.avg_pool(exclude_padding_from_average=True, **line),
            mb.l2_pool(**line),
            mb.l2_pool(x=square, kernel_sizes=[2, 3], strides=[1, 3], pad_type="same"),
            mb.max_pool(**corner),
            mb.avg_pool(**corner),
            mb.l2_pool(**corner),
        )

    expected = [
        [[[2, 5, 7]]],
        [[[1.5, 4.0, 6.5]]],
        [[[2.236068, 7.071068, 9.219544]]],
        [[[[16.309507], [11.401754]], [[13.379088], [13.038404]]]],
        [[[[1, 2], [3, 4]]]],
        [[[[0.25, 0.75], [1, 2.5]]]],
        [[[[1, 2.236068], [3.162278, 5.477226]]]],
    ]
    same(evaluated(build, x, square, lower), [np.array(each, np.float32) for each in expected])


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("include", [True, False])
def test_converted(axes, include):
    average = {1: torch.nn.AvgPool1d, 2: torch.nn.AvgPool2d, 3: torch.nn.AvgPool3d}[axes]
    maximum = {1: torch.nn.MaxPool1d, 2: torch.nn.MaxPool2d, 3: torch.nn.MaxPool3d}[axes]
    module = torch.nn.Sequential(
        maximum(3, 2, 1, ceil_mode=True),
        average(2, 1, 1, count_include_pad=include),
        average(3, 2, 1, ceil_mode=not (axes == 3 and include), count_include_pad=include),
    )
    against_torch(module, values((1, 2, 12, 13, 10)[: axes + 2]))


def test_adaptive_pools():
    module = torch.nn.Sequential(torch.nn.AdaptiveMaxPool2d((6, 4)), torch.nn.AdaptiveAvgPool2d((3, 1)))
    against_torch(module, values((1, 2, 12, 8)))


def test_gradients():
    x = torch.as_tensor(values((1, 1, 5))).requires_grad_()
    OPS["avg_pool"].function(x, [3], "same", exclude_padding_from_average=True).sum().backward()
    torch.testing.assert_close(x.grad.flatten(), torch.tensor([5 / 6, 7 / 6, 1, 7 / 6, 5 / 6]))
