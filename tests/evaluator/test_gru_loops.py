"""Loops of single ops that are a GRU, run by torch's kernel: against torch's layer, the loops themselves, and numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest

torch = pytest.importorskip("torch")
from evaluator import converted, mb, opened  # noqa: E402

from mil_palettize.torch import MILModule  # noqa: E402
from mil_palettize.torch.evaluator.ops import fused_recurrent  # noqa: E402
from mil_palettize.torch.training.batches import runner  # noqa: E402

STEPS, BATCH, INPUTS, HIDDEN = 6, 2, 3, 5
GRU = {"x": (STEPS, BATCH, INPUTS), "h": (1, BATCH, HIDDEN)}


class Layer(torch.nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.layer = torch.nn.GRU(INPUTS, HIDDEN, **options)

    def forward(self, *given: Any) -> Any:
        return self.layer(*given)


@pytest.fixture
def kernel_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many steps the kernel was asked for, in each call."""
    calls: list[int] = []
    original = fused_recurrent.torch_gru

    def counted(x: Any, *others: Any) -> Any:
        calls.append(len(x))
        return original(x, *others)

    monkeypatch.setattr(fused_recurrent, "torch_gru", counted)
    return calls


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def step_by_step(module: MILModule, monkeypatch: pytest.MonkeyPatch, **inputs: Any) -> list[Any]:
    with monkeypatch.context() as patched:
        patched.setattr(fused_recurrent, "FEWEST_STEPS", 1000)
        return list(module(**inputs).values())


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"bidirectional": True, "num_layers": 2}])
@pytest.mark.parametrize("precision", [ct.precision.FLOAT32, ct.precision.FLOAT16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("target", [ct.target.iOS15, ct.target.iOS18], ids=["iOS15", "iOS18"])
def test_layers_of_torch(options, precision, target, kernel_calls, monkeypatch):
    torch.manual_seed(0)
    layer, ways = Layer(**options), options.get("num_layers", 1) * (2 if "bidirectional" in options else 1)
    given = floats(*GRU["x"]), floats(ways, *GRU["h"][1:])
    module = converted(layer, *given, compute_precision=precision, target=target)
    named = {f"x{i}": torch.tensor(array) for i, array in enumerate(given)}
    found = list(module(**named).values())
    assert kernel_calls == [STEPS] * ways
    wanted, plain = layer(*map(torch.tensor, given)), step_by_step(module, monkeypatch, **named)
    assert len(kernel_calls) == ways
    for one, two, three in zip(found, wanted, plain, strict=True):
        torch.testing.assert_close(one, three, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3 if precision == ct.precision.FLOAT16 else 1e-6)


def test_gradients_are_those_of_the_loop(kernel_calls, monkeypatch):
    module = converted(Layer(), floats(*GRU["x"]))
    x, found = torch.tensor(floats(*GRU["x"])), []
    for run in (lambda: list(module(x0=x).values()), lambda: step_by_step(module, monkeypatch, x0=x)):
        module.zero_grad()
        sum((output**2).sum() for output in run()).backward()
        found.append({name: weight.grad.clone() for name, weight in module.weights.items()})
    assert kernel_calls == [STEPS]
    assert len(found[0]) == 6
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], rtol=1e-5, atol=1e-6)


def test_numbers_in_the_place_of_weights(kernel_calls):
    layer, x = torch.nn.GRU(1, 1), floats(STEPS, BATCH, 1)
    found = converted(layer, x)(x0=torch.tensor(x))
    for one, two in zip(found.values(), layer(torch.tensor(x)), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
    assert not kernel_calls


def test_any_number_of_steps(kernel_calls):
    torch.manual_seed(0)
    layer = Layer()
    model = ct.convert(
        torch.jit.trace(layer.eval(), torch.zeros(GRU["x"])),
        inputs=[ct.TensorType("x", (ct.RangeDim(1, 50, default=STEPS), *GRU["x"][1:]))],
        minimum_deployment_target=ct.target.iOS17,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    module = MILModule.from_package(model.package_path)
    for steps in (1, fused_recurrent.FEWEST_STEPS, 50):
        x = torch.tensor(floats(steps, *GRU["x"][1:]))
        for one, two in zip(module(x=x).values(), layer(x), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
    assert kernel_calls == [fused_recurrent.FEWEST_STEPS, 50]


def test_who_listens_sees_every_op_and_what_is_rounded_is_rounded_in_each(kernel_calls, tmp_path):
    class Seen:
        def __init__(self) -> None:
            self.ops: list[str] = []

        def will_run(self, op: Any, inputs: Any) -> None:
            self.ops.append(op.type)

        def did_run(self, op: Any, outputs: Any) -> None: ...

    module, x = converted(Layer(), floats(*GRU["x"])), torch.tensor(floats(*GRU["x"]))
    seen = Seen()
    with module.listening(seen):
        heard = list(module(x0=x).values())
    assert seen.ops.count("tanh") == STEPS
    module.half = True
    module(x0=x)
    assert not kernel_calls
    module.half = False
    for one, two in zip(module(x0=x).values(), heard, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-6)
    assert kernel_calls == [STEPS]


def test_loops_are_mapped_over_samples():
    module = converted(Layer(), floats(*GRU["x"]))
    block = module.function.block
    run = runner(module.function, block.steps, module.constants(), block.outputs)
    samples = torch.tensor(floats(3, *GRU["x"]))
    mapped = torch.vmap(run)({"x0": samples})
    for number, sample in enumerate(samples):
        for one, two in zip(mapped.values(), module(x0=sample).values(), strict=True):
            torch.testing.assert_close(one[number], two, rtol=1e-5, atol=1e-6)


# Loops that are nearly a GRU


def nearly(change: str, w: dict[str, np.ndarray], steps: int) -> Any:
    """As coremltools writes a GRU, but for one thing."""

    def gate(name: str, x: Any, h: Any) -> tuple[Any, Any]:
        bias = w[f"{name}_b"]
        return mb.linear(x=x, weight=w[f"{name}_x"], bias=bias), mb.linear(x=h, weight=w[f"{name}_h"], bias=bias)

    def body(i: Any, states: Any) -> Any:
        at = mb.sub(x=steps - 1, y=i) if change == "backwards" else i
        whole = (
            mb.split(x=mb.concat(values=[body.x] * 2, axis=2), num_splits=2, axis=2)[0] if change == "split" else body.x
        )
        x = mb.squeeze(x=mb.gather(x=whole, indices=at, axis=0), axes=[0])
        h = mb.squeeze(x=mb.gather(x=states, indices=i, axis=0), axes=[0])
        r, z = (mb.sigmoid(x=mb.add(x=one, y=two)) for one, two in (gate("r", x, h), gate("z", x, h)))
        one, two = gate("n", x, h)
        n = mb.add(x=one, y=mb.mul(x=r, y=two))
        n = mb.relu(x=n) if change == "relu" else mb.tanh(x=n)
        kept = mb.mul(x=r if change == "gates" else z, y=h)
        new = mb.add(x=mb.mul(x=mb.sub(x=2.0 if change == "two" else 1.0, y=z), y=n), y=kept)
        after = mb.add(x=i, y=2 if change == "every other" else 1)
        made = mb.scatter(data=states, indices=after, updates=mb.expand_dims(x=new, axes=[0]), axis=0)
        return after, made

    def build(x: Any, states: Any, number: Any) -> Any:
        body.x = x
        return mb.while_loop(_cond=lambda i, _: mb.less(x=i, y=steps), _body=body, loop_vars=(number, states))

    return build


def in_numpy(change: str, w: dict[str, np.ndarray], x: np.ndarray, states: np.ndarray, number: int, steps: int) -> Any:
    def sigmoid(value: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-value))

    states = states.astype(np.float64)
    while number < steps:
        at, h = x[steps - 1 - number if change == "backwards" else number], states[number]
        of_x, of_h = ({g: v @ w[f"{g}_{n}"].T + w[f"{g}_b"] for g in "rzn"} for v, n in ((at, "x"), (h, "h")))
        r, z = sigmoid(of_x["r"] + of_h["r"]), sigmoid(of_x["z"] + of_h["z"])
        n = of_x["n"] + r * of_h["n"]
        n = np.maximum(n, 0) if change == "relu" else np.tanh(n)
        number += 2 if change == "every other" else 1
        states[number] += ((2 if change == "two" else 1) - z) * n + (r if change == "gates" else z) * h
    return number, states


@pytest.mark.parametrize(
    "change", ["", "relu", "gates", "two", "every other", "backwards", "begins later", "not zero", "shorter", "split"]
)
def test_other_loops_are_run_as_they_are(change: str, kernel_calls: list[int], tmp_path: Path) -> None:
    w = {f"{gate}_x": floats(HIDDEN, INPUTS, seed=i) for i, gate in enumerate("rzn")}
    w |= {f"{gate}_h": floats(HIDDEN, HIDDEN, seed=i) for i, gate in enumerate("rzn")}
    w |= {f"{gate}_b": floats(HIDDEN, seed=i) for i, gate in enumerate("rzn")}
    x, states = floats(*GRU["x"]), np.zeros((STEPS + 1, BATCH, HIDDEN), np.float32)
    number = int(change == "begins later")
    steps = STEPS - 1 if change == "shorter" else STEPS
    states[0] = floats(BATCH, HIDDEN)
    if change == "not zero":
        states[3] = 0.5
    given = {"x0": x, "x1": states, "x2": np.array([number], np.int32)}
    module = opened(nearly(change, w, steps), [(a.shape, a.dtype) for a in given.values()], tmp_path)
    found = list(module.predict(given).values())
    wanted = in_numpy(change, w, x, states, number, steps)
    assert found[0].tolist() == [wanted[0]]
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-5, atol=1e-6)
    assert kernel_calls == ([steps] if change in ("", "shorter") else [])


def test_loops_of_many_ops_that_stand_on_each_other(tmp_path: Path) -> None:
    def body(i: Any, x: Any) -> Any:
        for _ in range(500):
            x = mb.relu(x=x)
        return mb.add(x=i, y=1), x

    def build(x: Any, number: Any) -> Any:
        return mb.while_loop(_cond=lambda i, _: mb.less(x=i, y=2), _body=body, loop_vars=(number, x))

    module = opened(build, [((2,), np.float32), ((1,), np.int32)], tmp_path)
    _, found = module.predict({"x0": np.array([-1, 2], np.float32), "x1": np.zeros(1, np.int32)}).values()
    assert found.tolist() == [0, 2]
