"""Quantizing and back, against coremltools' value inference, torch, and numpy."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from evaluator import evaluated, inferred, mb, same  # noqa: E402

DTYPES = [np.int8, np.uint8]
rng = np.random.default_rng(0)


def parameters(shape, axis, dtype):
    size = () if axis is None else (shape[axis],)
    scale = rng.uniform(0.05, 0.5, size).astype(np.float32)
    limits = np.iinfo(dtype)
    return scale, rng.integers(limits.min // 2, limits.max // 2, size).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize(("shape", "axis"), [((7,), None), ((7,), 0), ((3, 4), None), ((3, 4), -1), ((2, 3, 2, 2), 1)])
def test_quantize(shape, axis, shifted, dtype):
    x = rng.normal(0, 20, shape).astype(np.float32)  # wide enough to be clipped
    scale, zero_point = parameters(shape, axis, dtype)

    def build(x):
        options = {"axis": axis} if axis is not None else {}
        if shifted:
            options["zero_point"] = zero_point
        return mb.quantize(input=x, scale=scale, output_dtype=np.dtype(dtype).name, **options)

    wanted = inferred(build, x)
    (found,) = evaluated(lambda x: mb.cast(x=build(x), dtype="int32"), x)
    same([found], [wanted[0].astype(np.int32)])
    kind = torch.quint8 if dtype == np.uint8 else torch.qint8
    points = torch.tensor(zero_point.astype(np.int64) if shifted else np.zeros(scale.shape, np.int64))
    if axis is None:
        theirs = torch.quantize_per_tensor(torch.tensor(x), float(scale), int(points), kind)
    else:
        theirs = torch.quantize_per_channel(torch.tensor(x), torch.tensor(scale), points, axis % len(shape), kind)
    assert np.abs(found - theirs.int_repr().numpy().astype(np.int32)).max() <= 1  # torch multiplies by 1 / scale


def test_halves_are_rounded_to_even():
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32)
    build = lambda x: mb.cast(x=mb.quantize(input=x, scale=np.float32(1), output_dtype="int8"), dtype="int32")  # noqa: E731
    same(evaluated(build, x), [np.array([0, 2, 2, 0, -2], np.int32)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize(("shape", "axis"), [((7,), None), ((7,), 0), ((3, 4), None), ((3, 4), -1), ((2, 3, 2, 2), 1)])
def test_dequantize(shape, axis, shifted, dtype):
    limits = np.iinfo(dtype)
    x = rng.integers(limits.min, limits.max + 1, shape).astype(dtype)
    scale, zero_point = parameters(shape, axis, dtype)
    along = [1] * len(shape)
    if axis is not None:
        along[axis] = shape[axis]
    shift = zero_point.astype(np.float32).reshape(along if axis is not None else ()) if shifted else 0
    wanted = (x.astype(np.float32) - shift) * scale.reshape(along if axis is not None else ())

    def build(x):
        options = {"axis": axis} if axis is not None else {}
        if shifted:
            options["zero_point"] = zero_point
        return mb.dequantize(input=x, scale=scale, **options)

    same(evaluated(build, x), [wanted])
