"""Blocks of a program, samples mapped over it, and tables fitted block by block."""

from __future__ import annotations

from dataclasses import replace

import coremltools as ct
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from mil_palettize.algorithms.making import ArraySource, make_palette  # noqa: E402
from mil_palettize.errors import EvaluationError  # noqa: E402
from mil_palettize.torch import MILModule  # noqa: E402
from mil_palettize.torch.training.augmentation import augmented  # noqa: E402
from mil_palettize.torch.training.batches import Batched, floats_of, inputs_of, runner  # noqa: E402
from mil_palettize.torch.training.block_reconstruction import Reconstructed, reconstructed  # noqa: E402
from mil_palettize.torch.training.blocks import blocks_of  # noqa: E402
from mil_palettize.torch.training.schedule import Schedule  # noqa: E402
from mil_palettize.torch.training.settings import WeightSettings  # noqa: E402
from mil_palettize.torch.training.task import TrainingTask  # noqa: E402
from mil_palettize.torch.training.trained_palette import TrainedPalette  # noqa: E402

SETTINGS = WeightSettings(nbits=1, axis=0, output_axis=0)
SCHEDULE = Schedule(4, 8, 0.01, 1.0, 0, frozenset(range(24, 32)))


class Residual(nn.Module):
    """A convolution, two beside a shortcut, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.first, self.one, self.two = (nn.Conv2d(c, 8, 3, padding=1) for c in (3, 8, 8))
        self.last = nn.Linear(8, 12)

    def forward(self, x):
        x = F.relu(self.first(x))
        x = F.relu(x + self.two(F.relu(self.one(x))))
        return self.last(x.mean((2, 3)))


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> MILModule:
    torch.manual_seed(0)
    made = ct.convert(
        torch.jit.trace(Residual().eval(), torch.zeros(1, 3, 8, 8)),
        inputs=[ct.TensorType("x", (1, 3, 8, 8))],
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
    )
    path = tmp_path_factory.mktemp("blocks") / "residual.mlpackage"
    made.save(str(path))
    return MILModule.from_package(path)


def samples(count: int = 32, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    random = torch.Generator().manual_seed(seed)
    return [{"x": torch.randn(1, 3, 8, 8, generator=random)} for _ in range(count)]


def palettes(module: MILModule) -> dict[str, tuple[TrainedPalette, np.dtype]]:
    found = {}
    for slot, value in module.weights.items():
        source = ArraySource(slot, value.detach().numpy().astype(np.float16))
        expr = make_palette(source, SETTINGS.specification()).expr
        found[slot] = TrainedPalette.of_expression(SETTINGS, expr), expr.dtype
    return found


def fitted(module: MILModule, **options: object) -> Reconstructed:
    biases = [slot for slot in module.function.constants if "bias" in slot]
    task = TrainingTask(module, samples(), palettes(module), {}, biases, replace(SCHEDULE, **options))
    return reconstructed(task)


def test_a_residual_block_is_one(module: MILModule) -> None:
    """All steps are in a block, in their order; what crosses two blocks is one value."""
    blocks = blocks_of(module.function, list(module.weights))
    assert [sum(step.info.type == "conv" for step in block.steps) for block in blocks] == [1, 2, 0]
    assert [step for block in blocks for step in block.steps] == module.function.block.steps
    assert [len(block.gives) for block in blocks] == [1, 1, 1]
    assert blocks[-1].gives == tuple(module.function.block.outputs)


def test_a_weight_that_is_left_out_makes_no_block(module: MILModule) -> None:
    (first, *_), all_steps = list(module.weights), module.function.block.steps
    (block,) = blocks_of(module.function, [first])
    assert list(block.steps) == all_steps
    assert block.weights == (first,)


def test_blocks_get_nearer_to_the_float_program(module: MILModule) -> None:
    """On samples that nobody saw; every element keeps the entry that it had."""
    result = fitted(module)
    assert result.better == result.count == 3
    assert result.noise[1] < result.noise[0]
    begun = palettes(module)
    for slot, expr in result.expressions.items():
        np.testing.assert_array_equal(expr.indices.unpack(), begun[slot][0].expression(expr.dtype).indices.unpack())
    old = {slot: palette.values for slot, (palette, _) in begun.items()}
    new = {slot: torch.from_numpy(expr.decode().astype(np.float32)) for slot, expr in result.expressions.items()}
    new |= {slot: torch.from_numpy(array) for slot, array in result.biases.items()}
    assert noise(module, new) < noise(module, old)


def noise(module: MILModule, changed: dict[str, torch.Tensor]) -> float:
    function = module.function
    given = inputs_of(module, samples(16, 9))
    sides = []
    for constants in (floats_of(module), {**floats_of(module), **changed}):
        run = runner(function, function.block.steps, constants, function.block.outputs)
        sides.append(torch.stack([next(iter(run(one).values())) for one in given]))
    return float((sides[0] - sides[1]).square().sum())


def test_blocks_that_get_no_better_stay(module: MILModule) -> None:
    result = fitted(module, learning_rate=1e3)
    assert not result.expressions
    assert not result.biases
    assert result.better == 0


def test_an_error_that_is_no_number(module: MILModule) -> None:
    with pytest.raises(EvaluationError, match="the loss is inf; lower the learning rate"):
        fitted(module, learning_rate=1e38)


# Many samples at once


def test_mapped_samples_give_what_single_ones_do(module: MILModule) -> None:
    """Gradients too."""
    function, given = module.function, inputs_of(module, samples(5))
    gradients = []
    for mapped in (True, False):
        constants = floats_of(module)
        leaves = {slot: constants[slot].clone().requires_grad_(True) for slot in module.weights}
        run = runner(function, function.block.steps, {**constants, **leaves}, function.block.outputs)
        found = Batched(run)(given) if mapped else [run(one) for one in given]
        sum(next(iter(one.values())).square().sum() for one in found).backward()
        gradients.append([leaf.grad for leaf in leaves.values()])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two)


def test_samples_that_cannot_be_mapped() -> None:
    """Ops that look at values, and samples of other shapes, are run one after another; errors are those of a sample."""
    calls = []

    def looks(sample):
        calls.append(sample)
        return {"y": sample["x"] * 2 if bool(sample["x"].sum() > 0) else sample["x"]}

    given = [{"x": torch.full((2,), value)} for value in (1.0, -1.0)]
    assert [one["y"].tolist() for one in Batched(looks)(given)] == [[2.0, 2.0], [-1.0, -1.0]]
    doubled = Batched(lambda sample: {"y": sample["x"] * 2})
    assert [len(one["y"]) for one in doubled([{"x": torch.ones(2)}, {"x": torch.ones(3)}])] == [2, 3]
    with pytest.raises(KeyError, match="z"):
        Batched(lambda sample: {"y": sample["z"]})(given)


# Pictures changed at random


def test_pictures_are_flipped_and_shifted() -> None:
    """By an eighth at most; what is no picture stays, and the same draws give the same."""
    picture = torch.arange(2 * 16 * 16.0).reshape(1, 2, 16, 16)
    sample = {"x": picture, "ids": torch.ones(1, 2, 16, 16, dtype=torch.int64), "row": torch.ones(1, 4)}
    seen = set()
    for seed in range(40):
        (found,) = augmented([sample], ("flip", "shift"), np.random.default_rng(seed))
        (again,) = augmented([sample], ("flip", "shift"), np.random.default_rng(seed))
        assert torch.equal(found["x"], again["x"])
        assert found["ids"] is sample["ids"]
        assert found["row"] is sample["row"]
        middle = found["x"][0, 0, 8, 8]
        row, column = divmod(int(middle), 16)
        flipped = bool(found["x"][0, 0, 8, 8] > found["x"][0, 0, 8, 9])
        column = 15 - column if flipped else column
        seen.add((row - 8, column - 8, flipped))
    assert {abs(row) for row, _, _ in seen} == {abs(column) for _, column, _ in seen} == {0, 1, 2}
    assert {flipped for _, _, flipped in seen} == {False, True}


def test_pictures_are_laid_over_each_other() -> None:
    """Each has more than half of its own, and the rest of one other."""
    samples = [{"x": torch.full((1, 1, 4, 4), 10.0**n), "ids": torch.tensor([[n]])} for n in range(5)]
    samples.append({"x": torch.full((1, 1, 4, 6), 7.0), "ids": torch.tensor([[5]])})  # of another shape: as it is
    found = augmented(samples, ("mix",), np.random.default_rng(3))
    again = augmented(samples, ("mix",), np.random.default_rng(3))
    assert all(torch.equal(one["x"], two["x"]) for one, two in zip(found, again, strict=True))
    assert [int(one["ids"]) for one in found] == list(range(6))
    assert torch.equal(found[5]["x"], samples[5]["x"])
    changed = 0
    for number, one in enumerate(found[:5]):
        value = float(one["x"][0, 0, 0, 0])
        assert torch.equal(one["x"], torch.full((1, 1, 4, 4), value))
        parts = [(value - 10.0**number) / (10.0**n - 10.0**number) for n in range(5) if n != number]
        near = [part for part in parts if -1e-6 <= part <= 0.5]
        assert near
        changed += value != 10.0**number
    assert changed >= 3
