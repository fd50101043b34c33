"""Weights whose output something is added to: palettes are judged behind that, and make good what it lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

torch = pytest.importorskip("torch")

from evaluator import program_of, saved  # noqa: E402

from mil_palettize.torch import MILModule  # noqa: E402
from mil_palettize.torch.calibration.behind import Tail, tail_of  # noqa: E402
from mil_palettize.torch.calibration.walk import Collected, WalkOptions, walk  # noqa: E402

WIDTH = 6


def weight(seed: int, shape: tuple[int, ...] = (WIDTH, WIDTH)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def samples(count: int = 7, shape: tuple[int, ...] = (1, 5, WIDTH)) -> list[dict[str, Any]]:
    random = np.random.default_rng(9)
    return [{"x0": torch.from_numpy(random.normal(size=shape).astype(np.float32))} for _ in range(count)]


def tail_behind(module: MILModule, kind: str) -> Tail:
    function = module.function
    number = next(i for i, step in enumerate(function.block.steps) if step.info.type == kind)
    steps = function.block.steps
    return tail_of(steps[number], steps[number + 1 :], set(function.constants), function.block.outputs)


def kinds(tail: Tail) -> list[str]:
    return [step.info.type for step, _ in tail.steps]


def test_a_shortcut_and_a_norm_belong_to_the_op_before(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        y = mb.add(x=mb.linear(x=x, weight=weight(0)), y=x)
        return mb.relu(x=mb.layer_norm(x=y, axes=[-1], epsilon=1e-5))

    module = MILModule.from_package(saved(program_of(build, [((1, 5, WIDTH), np.float32)]), tmp_path))
    tail = tail_behind(module, "linear")
    assert kinds(tail) == ["add", "layer_norm", "relu"]
    assert tail.beside == ("x0",)
    assert tail.residual == "x0"


@pytest.mark.parametrize(
    ("build", "wanted", "residual"),
    [
        pytest.param(lambda y, x: mb.add(x=y, y=y), [], None, id="both are the output"),
        pytest.param(lambda y, x: mb.add(x=mb.relu(x=y), y=x), ["relu", "add"], None, id="behind a relu"),
        pytest.param(lambda y, x: mb.mul(x=y, y=x), ["mul"], None, id="a product"),
        pytest.param(lambda y, x: mb.add(x=y, y=weight(3, (WIDTH,))), ["add"], None, id="a constant"),
        pytest.param(lambda y, x: mb.add(x=mb.relu(x=x), y=y), [], None, id="computed later"),
    ],
)
def test_what_follows(tmp_path: Path, build: Any, wanted: list[str], residual: str | None) -> None:
    program = program_of(lambda x: build(mb.linear(x=x, weight=weight(0)), x), [((1, 5, WIDTH), np.float32)])
    tail = tail_behind(MILModule.from_package(saved(program, tmp_path)), "linear")
    assert kinds(tail) == wanted
    assert tail.residual == residual


def test_what_a_shortcut_lost_is_told(tmp_path: Path) -> None:
    """The first weight is changed; of the second the sum of (r_f - r_q) x_qᵀ is what numpy has."""
    first, second = weight(0), weight(1)

    def build(x: Any) -> Any:
        y = mb.linear(x=x, weight=first, name="first")
        return mb.add(x=mb.linear(x=mb.relu(x=y), weight=second, name="second"), y=y)

    module = MILModule.from_package(saved(program_of(build, [((1, 5, WIDTH), np.float32)]), tmp_path))
    given, found = samples(), dict[str, Collected]()
    changed = (first * 1.5).astype(np.float32)

    def solve(collected: Collected) -> np.ndarray | None:
        found[collected.slot] = collected
        return changed if len(found) == 1 else None

    walk(module, given, list(module.weights), solve, WalkOptions(held=frozenset({2})))
    x = np.concatenate([s["x0"].numpy().reshape(-1, WIDTH) for i, s in enumerate(given) if i != 2]).astype(np.float64)
    lost = x @ first.T.astype(np.float64) - x @ changed.T.astype(np.float64)
    own = np.maximum(x @ changed.T.astype(np.float64), 0.0)
    one, two = (collected.moments[0] for collected in found.values())
    assert one.residual is None
    assert two.residual is not None
    np.testing.assert_allclose(two.residual[0], lost.T @ own, rtol=1e-4, atol=1e-3)


def test_an_output_is_judged_behind_its_layer_norm(tmp_path: Path) -> None:
    """A channel far larger than the others hides what they lose, but for the norm."""
    own, gamma = weight(0), np.ones(WIDTH, np.float32)
    own[0] *= 100.0

    def build(x: Any) -> Any:
        y = mb.add(x=mb.linear(x=x, weight=own), y=x)
        return mb.layer_norm(x=y, axes=[-1], gamma=gamma, beta=gamma * 0.0, epsilon=1e-5)

    module = MILModule.from_package(saved(program_of(build, [((1, 5, WIDTH), np.float32)]), tmp_path))
    given, found = samples(), list[Collected]()
    walk(module, given, list(module.weights), found.append, WalkOptions(held=frozenset({2, 5})))
    other = own.copy()
    other[1:] *= 0.5
    assert found[0].trial is not None
    error = found[0].trial(other)
    x = np.concatenate([given[i]["x0"].numpy().reshape(-1, WIDTH) for i in (2, 5)]).astype(np.float64)
    before, after = (_normalised(x @ w.T.astype(np.float64) + x) for w in (own, other))
    assert error == pytest.approx(np.square(after - before).sum() / np.square(before).sum(), rel=1e-3)


def test_what_an_infinite_mask_hides_counts_nothing(tmp_path: Path) -> None:
    own, hidden = weight(0), np.array([0, 1, 0, 0, 1, 0], bool)

    def build(x: Any, mask: Any) -> Any:
        return mb.add(x=mb.linear(x=x, weight=own), y=mask)

    program = program_of(build, [((1, 5, WIDTH), np.float32), ((1, 5, WIDTH), np.float32)])
    module = MILModule.from_package(saved(program, tmp_path))
    mask = torch.from_numpy(np.where(hidden, -np.inf, 0.0).astype(np.float32)).expand(1, 5, WIDTH)
    given, found = [{**sample, "x1": mask} for sample in samples()], list[Collected]()
    walk(module, given, list(module.weights), found.append, WalkOptions(held=frozenset({2})))
    assert found[0].trial is not None
    error = found[0].trial((own * 0.9).astype(np.float32))
    assert error == pytest.approx(0.01, rel=1e-3)


def _normalised(rows: np.ndarray) -> np.ndarray:
    return (rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, keepdims=True) + 1e-5)
