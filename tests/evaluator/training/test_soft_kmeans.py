"""Differentiable k-means beside its plain formulation, whose map of attention is held whole and differentiated by
torch."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from mil_palettize.torch.training import soft_kmeans as module  # noqa: E402
from mil_palettize.torch.training.soft_kmeans import Softness, nearest, soft_kmeans  # noqa: E402


def plain(points, tables, softness):
    for _ in range(softness.iterations):
        distances = (points[:, :, None] - tables[:, None]).square().sum(-1)
        attention = torch.softmax(-distances / softness.tau, -1)
        tables = (attention.mT @ points) / attention.sum(1)[..., None]
    return attention @ tables, tables


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(5)


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(module, "_PIECE", 64)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("iterations", [1, 3])
def test_it_is_the_plain_formulation(dim, iterations) -> None:
    """In float64: values, tables, and gradients through all iterations, also in pieces."""
    points = torch.randn(3, 41, dim, dtype=torch.float64, requires_grad=True)
    start = torch.randn(3, 4, dim, dtype=torch.float64)
    softness = Softness(0.4, iterations)
    made, tables = soft_kmeans(points, start, softness)
    wanted, wanted_tables = plain(points, start, softness)
    torch.testing.assert_close(made, wanted)
    torch.testing.assert_close(tables, wanted_tables)
    gradient = torch.randn_like(made)
    (found,) = torch.autograd.grad(made, points, gradient)
    torch.testing.assert_close(found, torch.autograd.grad(wanted, points, gradient)[0])


def test_gradients_are_those_of_finite_differences() -> None:
    start = torch.randn(2, 3, 2, dtype=torch.float64)
    points = torch.randn(2, 7, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: soft_kmeans(x, start, Softness(0.4))[0], points)


def test_binned_scalars_have_the_same_gradients(monkeypatch) -> None:
    """Values that float16 holds lose nothing; each point's gradient is its own, also where many have one value."""
    monkeypatch.setattr(module, "_MANY", 100)
    points = (torch.randint(-300, 300, (2, 2000, 1)) / 1024).requires_grad_()
    start = torch.tensor([-0.2, -0.1, 0.1, 0.2]).reshape(1, 4, 1).expand(2, -1, -1)
    softness = Softness(0.01)
    made, tables = soft_kmeans(points, start, softness)
    exact = points.detach().double().requires_grad_()
    wanted, wanted_tables = plain(exact, start.double(), softness)
    torch.testing.assert_close(made.double(), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(tables.double(), wanted_tables, rtol=1e-5, atol=1e-6)
    gradient = torch.randn_like(made)
    (found,) = torch.autograd.grad(made, points, gradient)
    (expected,) = torch.autograd.grad(wanted, exact, gradient.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_binned_scalars_of_any_size_are_near(monkeypatch) -> None:
    """11 digits are left of each, whatever the weight's scale is."""
    monkeypatch.setattr(module, "_MANY", 100)
    for scale in (1e-6, 1.0, 1e6):
        points = torch.randn(1, 5000, 1) * scale
        start = torch.tensor([-1.0, -0.3, 0.3, 1.0]).reshape(1, 4, 1) * scale
        made, _ = soft_kmeans(points, start, Softness(0.05 * scale**2))
        wanted, _ = plain(points.double(), start.double(), Softness(0.05 * scale**2))
        assert float((made - wanted).abs().max()) < 4e-3 * scale


def test_hard_points_are_entries_and_gradients_pass_through() -> None:
    points = torch.randn(2, 50, 1, requires_grad=True)
    start = torch.linspace(-1.5, 1.5, 4).reshape(1, 4, 1).expand(2, -1, -1)
    made, tables = soft_kmeans(points, start, Softness(1.0, 1, hard=True))
    indices = nearest(points, start)
    assert torch.equal(indices, (points - start.mT).abs().argmin(-1))
    for group in range(2):
        for entry in range(4):
            mine = points[group][indices[group] == entry]
            if len(mine):
                torch.testing.assert_close(tables[group, entry, 0], mine.mean())
        torch.testing.assert_close(made[group], tables[group][indices[group]])
    (found,) = torch.autograd.grad(made, points, torch.ones_like(made))
    torch.testing.assert_close(found, torch.full_like(found, 2.0))  # its own, and its part in the mean


def test_an_entry_that_nothing_is_near_stays() -> None:
    points = torch.zeros(1, 10, 1, requires_grad=True)
    start = torch.tensor([0.0, 1e3]).reshape(1, 2, 1)
    made, tables = soft_kmeans(points, start, Softness(1e-4))
    assert tables.flatten().tolist() == [0.0, 1e3]
    made.sum().backward()
    assert torch.isfinite(points.grad).all()
