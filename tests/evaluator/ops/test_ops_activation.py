"""Activations against coremltools' own inference and the torch modules that convert to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import coremltools as ct  # noqa: E402
from evaluator import against_torch, evaluated, inferred, mb, same  # noqa: E402
from torch import nn  # noqa: E402

from mil_palettize.torch.evaluator.ops import OPS  # noqa: E402

TARGETS = [ct.target.iOS15, ct.target.iOS17, ct.target.iOS18]
SHAPES = [(8,), (2, 4), (2, 4, 3), (1, 4, 3, 2), (2, 4, 1, 3, 2)]
CASES: list[tuple[str, dict[str, Any]]] = [
    ("clamped_relu", {"alpha": 0.3, "beta": 2.5}),
    ("clamped_relu", {"alpha": -2.0, "beta": 1.5}),
    ("elu", {"alpha": 1.0}),
    ("elu", {"alpha": 0.4}),
    ("gelu", {}),
    ("gelu", {"mode": "EXACT"}),
    ("gelu", {"mode": "TANH_APPROXIMATION"}),
    ("gelu", {"mode": "SIGMOID_APPROXIMATION"}),
    ("leaky_relu", {"alpha": 0.2}),
    ("leaky_relu", {"alpha": 1.7}),
    ("linear_activation", {"alpha": -1.5, "beta": 0.25}),
    ("relu", {}),
    ("relu6", {}),
    ("scaled_tanh", {"alpha": 1.7, "beta": -0.6}),
    ("sigmoid", {}),
    ("sigmoid_hard", {"alpha": 0.2, "beta": 0.5}),
    ("softmax", {}),
    ("softplus", {}),
    ("softsign", {}),
    ("thresholded_relu", {"alpha": 0.5}),
    ("thresholded_relu", {"alpha": -1.0}),
]
IDS = ["-".join([name, *map(str, options.values())]) for name, options in CASES]


def values(*shape: int) -> np.ndarray:
    """Both signs, zero, and numbers that are far from it; a new array each time, as inference may write to it."""
    array = np.random.default_rng(3).standard_normal(shape).astype(np.float32) * 3
    array.flat[:6] = [0.0, 0.5, -1.0, 30.0, -30.0, 6.0]
    return array


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_as_coremltools_infers(name: str, options: dict[str, Any]) -> None:
    options = {key: np.float32(value) if key != "mode" else value for key, value in options.items()}

    def build(x: Any) -> Any:
        return getattr(mb, name)(x=x, **options)

    same(evaluated(build, values(2, 4, 3)), inferred(build, values(2, 4, 3)))


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_every_rank_and_opset(target: Any) -> None:
    def build(*inputs: Any) -> Any:
        return [
            found
            for x in inputs
            for found in (mb.relu(x=x), mb.elu(x=x, alpha=np.float32(0.7)), mb.sigmoid(x=x), mb.softmax(x=x, axis=0))
        ]

    arrays = [values(*shape) for shape in SHAPES]
    same(evaluated(build, *arrays, target=target), inferred(build, *arrays, target=target))


def test_parameters_of_another_precision() -> None:
    """iOS17 lets float16 parameters stand beside float32 values."""

    def build(x: Any) -> Any:
        half = np.float16(0.3)
        return (
            mb.elu(x=x, alpha=half),
            mb.leaky_relu(x=x, alpha=half),
            mb.sigmoid_hard(x=x, alpha=half, beta=half),
            mb.prelu(x=x, alpha=np.full(4, half)),
        )

    found, wanted = evaluated(build, values(2, 4, 3)), inferred(build, values(2, 4, 3))
    same(found, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(2, 4, 3), (2, 4, 3, 5), (1, 4, 2, 3, 2)], ids=str)
def test_prelu(shape: tuple[int, ...]) -> None:
    """Devices take different slopes for rank 4 only."""
    alpha = np.array([0.1, -0.5, 2.0, 0.0] if len(shape) == 4 else [0.3] * 4, np.float32)

    def build(x: Any) -> Any:
        return mb.prelu(x=x, alpha=alpha)

    same(evaluated(build, values(*shape)), inferred(build, values(*shape)))


@pytest.mark.parametrize("shape", [(2, 4, 3), (2, 4, 3, 5), (1, 4, 2, 3, 2)], ids=str)
def test_softplus_parametric(shape: tuple[int, ...]) -> None:
    alpha, beta = np.array([1, -0.5, 2, 0.3], np.float32), np.array([0.5, 1, -1.5, 0.1], np.float32)

    def build(x: Any) -> Any:
        return mb.softplus_parametric(x=x, alpha=alpha, beta=beta)

    same(evaluated(build, values(*shape)), inferred(build, values(*shape)), atol=1e-5)


@pytest.mark.parametrize("axis", [-3, -2, -1, 0, 1, 2])
def test_softmax_axes(axis: int) -> None:
    def build(x: Any) -> Any:
        return mb.softmax(x=x, axis=axis)

    same(evaluated(build, values(2, 4, 3)), inferred(build, values(2, 4, 3)))


def test_silu() -> None:
    x = values(2, 4, 3)
    same(evaluated(lambda x: mb.silu(x=x), x), [x / (1 + np.exp(-x.astype(np.float64))).astype(np.float32)])


def test_clamped_relu_with_a_negative_bound() -> None:
    """As the documentation has it; inference adds up both sides."""
    x = values(2, 4)

    def build(x: Any) -> Any:
        return mb.clamped_relu(x=x, alpha=np.float32(0.5), beta=np.float32(-1))

    same(evaluated(build, x), [np.minimum(-1, np.where(x >= 0, x, 0.5 * x))])


def test_thresholds_belong_to_what_is_kept() -> None:
    def build(x: Any) -> Any:
        return mb.thresholded_relu(x=x, alpha=np.float32(0.5))

    same(evaluated(build, np.array([0.5, 0.4999, 0.75], np.float32)), [np.array([0.5, 0, 0.75])])


@pytest.mark.parametrize(
    "module",
    [
        nn.ELU(0.7), nn.GELU(), nn.GELU("tanh"), nn.LeakyReLU(0.15), nn.PReLU(4, 0.2), nn.ReLU6(), nn.Hardsigmoid(),
        nn.Hardswish(), nn.Hardtanh(-2.0, 1.5), nn.Mish(), nn.SiLU(), nn.Softmax(1), nn.Softmin(-1),
        nn.Softplus(), nn.Softplus(2.0), nn.Softsign(), nn.Tanhshrink(),
    ],
    ids=str,
)  # fmt: skip
def test_modules(module: nn.Module) -> None:
    against_torch(module, values(2, 4, 3, 2))


SMOOTH = [case for case in CASES if case[0] != "thresholded_relu"] + [("silu", {})]


@pytest.mark.parametrize(("name", "options"), SMOOTH, ids=[name for name, _ in SMOOTH])
def test_gradients_flow(name: str, options: dict[str, Any]) -> None:
    x = torch.tensor([[-1.3, 0.4, 1.1], [0.2, -0.6, 0.9]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: OPS[name].function(x, **options), (x,))
