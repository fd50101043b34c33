"""Normalizations, against coremltools' own inference where it has one, else against numpy."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from evaluator import against_torch, evaluated, inferred, mb, same  # noqa: E402

from mil_palettize.torch.evaluator.ops import OPS  # noqa: E402


def values(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * 3 + 1).astype(np.float32)


def channels(vector: np.ndarray, rank: int) -> np.ndarray:
    return vector.reshape(1, -1, *[1] * (rank - 2))


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5), (1, 3, 2, 2, 2)])
def test_batch_norm(shape):
    x, mean, gamma, beta = values(shape), values((3,), 1), values((3,), 2), values((3,), 3)
    variance = values((3,), 4) ** 2

    def build(x):
        return (
            mb.batch_norm(x=x, mean=mean, variance=variance),
            mb.batch_norm(x=x, mean=mean, variance=variance, gamma=gamma, epsilon=np.float32(0.5)),
            mb.batch_norm(x=x, mean=mean, variance=variance, gamma=gamma, beta=beta, epsilon=np.float32(1e-2)),
        )

    m, v, g, b = (channels(each, x.ndim) for each in (mean, variance, gamma, beta))
    expected = [
        (x - m) / np.sqrt(v + 1e-5),
        g * (x - m) / np.sqrt(v + 0.5),
        g * (x - m) / np.sqrt(v + 1e-2) + b,
    ]
    same(evaluated(build, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5), (1, 3, 1)])
def test_instance_norm(shape):
    x, gamma, beta = values(shape), values((3,), 1), values((3,), 2)

    def build(x):
        return (
            mb.instance_norm(x=x),
            mb.instance_norm(x=x, gamma=gamma, beta=beta, epsilon=np.float32(0.3)),
        )

    spatial = tuple(range(2, x.ndim))
    centred, variance = x - x.mean(spatial, keepdims=True), x.var(spatial, keepdims=True)
    scaled = centred / np.sqrt(variance + 0.3) * channels(gamma, x.ndim) + channels(beta, x.ndim)
    same(evaluated(build, x), [centred / np.sqrt(variance + 1e-5), scaled], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5), (2, 2, 3, 1, 2)])
def test_l2_norm(shape):
    x = values(shape)

    def build(x):
        return mb.l2_norm(x=x), mb.l2_norm(x=x, epsilon=np.float32(5.7))

    same(evaluated(build, x), inferred(build, x))


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((4,), [0]),
        ((2, 3, 4), [-1]),
        ((2, 3, 4), [1]),
        ((2, 3, 4), [-1, 1]),
        ((2, 3, 4, 5), [0, 1, 3]),
        ((2, 1, 3, 2, 4), [0, -1]),
        ((2, 1, 3, 2, 4), [-5, -4, -3, -2, -1]),
    ],
)
def test_layer_norm(shape, axes):
    x = values(shape)
    inner = tuple(shape[axis] for axis in sorted(axis % len(shape) for axis in axes))
    gamma, beta = values(inner, 1), values(inner, 2)

    def build(x):
        return (
            mb.layer_norm(x=x, axes=axes),
            mb.layer_norm(x=x, axes=axes, gamma=gamma),
            mb.layer_norm(x=x, axes=axes, gamma=gamma, beta=beta, epsilon=np.float32(0.7)),
        )

    same(evaluated(build, x), inferred(build, x), rtol=1e-4, atol=1e-5)


def test_layer_norm_of_all_axes():
    """Programs may leave ``axes`` out, though coremltools cannot build them."""
    x = values((2, 3, 4))
    found = OPS["layer_norm"].function(torch.as_tensor(x))
    same([found.numpy()], [(x - x.mean()) / np.sqrt(x.var() + 1e-5)], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("shape", [(6, 2, 2), (2, 6, 2, 3)])
def test_local_response_norm(shape, size):
    """Channels are the third axis from the end."""
    x = values(shape)

    def build(x):
        alpha, beta, k = (np.float32(each) for each in (0.5, 1.5, 2.0))
        return mb.local_response_norm(x=x, size=size), mb.local_response_norm(
            x=x, size=size, alpha=alpha, beta=beta, k=k
        )

    reach = size // 2
    squares = np.zeros_like(x)
    for channel in range(6):
        near = x[..., max(0, channel - reach) : channel + reach + 1, :, :]
        squares[..., channel, :, :] = (near**2).sum(-3)
    expected = [x / (1 + 1e-4 / size * squares) ** 0.75, x / (2 + 0.5 / size * squares) ** 1.5]
    same(evaluated(build, x), expected, rtol=1e-4)


def test_local_response_norm_of_a_device():
    """What coremltools' tests expect of Core ML."""
    x = np.array([[[1.0, -7.0], [5.0, -6.0], [-3.0, -5.0]]], np.float32)
    expected = [
        [[[0.99996257, -6.98716545], [4.99531746, -5.99191284], [-2.99898791, -4.99531746]]],
        [[[0.99997497, -6.99143696], [4.99687672, -5.99460602], [-2.99932504, -4.99687672]]],
    ]

    def build(x):
        return mb.local_response_norm(x=x, size=2), mb.local_response_norm(x=x, size=3)

    same(evaluated(build, x), [np.array(each, np.float32) for each in expected])


class Norms(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.batch, self.layer = torch.nn.BatchNorm2d(3), torch.nn.LayerNorm((4, 5))
        self.instance, self.group = torch.nn.InstanceNorm2d(3, affine=True), torch.nn.GroupNorm(3, 3)
        with torch.no_grad():
            for tensor in (*self.parameters(), self.batch.running_mean, self.batch.running_var):
                tensor.uniform_(0.5, 2)

    def forward(self, x):
        return self.batch(x), self.layer(x), self.instance(x), self.group(x), torch.nn.functional.normalize(x, dim=1)


def test_converted():
    torch.manual_seed(0)
    against_torch(Norms(), values((2, 3, 4, 5)))
