"""Moments of every kind of op against what the op itself gives.

An op that multiplies is linear in its weight: the sum of squares of what it gives with E in the weight's place is
tr(E H Eᵀ), and that of products with the output for A and other inputs is tr(A C Eᵀ).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mil_palettize.torch.calibration.readers import Operand, inputs, matrices, outputs_at, rows_read  # noqa: E402
from mil_palettize.torch.calibration.sums import Sums  # noqa: E402
from mil_palettize.torch.evaluator.ops import OPS  # noqa: E402
from mil_palettize.torch.evaluator.program import OpInfo, Step  # noqa: E402

EVERY = 10**6  # positions


def step_of(kind: str) -> Step:
    return Step(OpInfo(kind, "op", ("out",), False), OPS[kind].function, {}, (), ("out",), (False,))


def random_tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


# Kind, shapes of input and weight, the weight's parameter, other arguments.
CASES: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], str, dict[str, Any]]] = {
    "conv": ("conv", (2, 4, 7, 6), (3, 4, 3, 2), "weight", {"pad_type": "custom", "pad": [1, 1, 0, 1]}),
    "strided": ("conv", (1, 4, 9, 8), (3, 4, 3, 3), "weight", {"strides": [2, 3], "pad_type": "same"}),
    "same_lower": ("conv", (1, 2, 8, 8), (3, 2, 3, 3), "weight", {"strides": [2, 2], "pad_type": "same_lower"}),
    "dilated": ("conv", (1, 2, 9, 9), (3, 2, 3, 3), "weight", {"dilations": [2, 1]}),
    "grouped": ("conv", (2, 4, 5, 5), (6, 2, 3, 3), "weight", {"groups": 2, "pad_type": "same"}),
    "depthwise": ("conv", (1, 4, 5, 5), (4, 1, 3, 3), "weight", {"groups": 4, "pad_type": "same"}),
    "conv of rank 1": ("conv", (2, 3, 12), (4, 3, 5), "weight", {"strides": [2]}),
    "conv of rank 3": ("conv", (1, 2, 4, 5, 4), (3, 2, 2, 3, 2), "weight", {}),
    "transposed": ("conv_transpose", (2, 3, 4, 5), (3, 4, 3, 2), "weight", {"strides": [2, 2]}),
    "transposed, cut": (
        "conv_transpose", (1, 3, 4, 5), (3, 4, 3, 3), "weight",
        {"strides": [2, 2], "pad_type": "custom", "pad": [1, 0, 1, 1]},
    ),
    "transposed, same": (
        "conv_transpose", (1, 3, 4, 4), (3, 2, 3, 3), "weight", {"strides": [2, 2], "pad_type": "same"},
    ),
    "transposed, of a size": (
        "conv_transpose", (1, 2, 4, 4), (2, 3, 3, 3), "weight",
        {"strides": [2, 2], "pad_type": "custom", "pad": [1, 1, 1, 1], "output_shape": [1, 3, 8, 8]},
    ),
    "transposed, grouped": (
        "conv_transpose", (1, 4, 4, 4), (4, 3, 2, 2), "weight", {"groups": 2, "dilations": [2, 1]},
    ),
    "linear": ("linear", (2, 3, 5), (4, 5), "weight", {}),
    "matmul by y": ("matmul", (2, 3, 5), (5, 4), "y", {}),
    "matmul by y transposed": ("matmul", (2, 3, 5), (4, 5), "y", {"transpose_y": True}),
    "matmul with x transposed": ("matmul", (2, 5, 3), (5, 4), "y", {"transpose_x": True}),
    "matmul by x": ("matmul", (2, 5, 3), (4, 5), "x", {}),
    "matmul by x transposed": ("matmul", (2, 5, 3), (5, 4), "x", {"transpose_x": True}),
    "matmul with y transposed": ("matmul", (2, 3, 5), (4, 5), "x", {"transpose_y": True}),
    "matmul of a vector": ("matmul", (5,), (5, 4), "y", {}),
    "batched": ("matmul", (3, 2, 5), (3, 5, 4), "y", {}),
    "batched, more batches": ("matmul", (2, 3, 2, 5), (3, 5, 4), "y", {}),
    "batched, one matrix for several": ("matmul", (2, 3, 2, 5), (1, 3, 5, 4), "y", {}),
    "batched, of one matrix": ("matmul", (3, 2, 5), (1, 5, 4), "y", {}),
}  # fmt: skip


def arguments_of(name: str, weight: torch.Tensor, seed: int) -> dict[str, Any]:
    _, shape, _, parameter, options = CASES[name]
    other = "x" if parameter in ("weight", "y") else "y"
    return {other: random_tensor(*shape, seed=seed), parameter: weight, **options}


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_taken_where_inputs_are(name: str) -> None:
    """What the weight gives for the inputs that are looked at is the output at the positions that are looked at."""
    kind, _, shape, parameter, _ = CASES[name]
    step, operand, weight = step_of(kind), Operand(parameter), random_tensor(*shape, seed=1)
    arguments = arguments_of(name, weight, 10)
    output = step.call(**arguments)
    found = outputs_at(step, arguments, output, 5, np.random.default_rng(3))
    if kind not in ("conv", "linear"):
        assert found is None
        return
    where = matrices(step, arguments, operand, np.arange(weight.numel()).reshape(shape))
    assert where is not None
    columns = inputs(step, arguments, operand, 5, np.random.default_rng(3)).columns
    torch.testing.assert_close(found, columns @ weight.reshape(-1)[torch.from_numpy(where)].mT)
    assert outputs_at(step, arguments, output[..., :1, :], 5, np.random.default_rng(3)) is None or output.shape[-2] == 1


@pytest.mark.parametrize("name", CASES)
def test_the_power_of_the_output(name: str) -> None:
    kind, _, shape, parameter, _ = CASES[name]
    step, operand = step_of(kind), Operand(parameter)
    first, second = random_tensor(*shape, seed=1), random_tensor(*shape, seed=2)
    index = np.arange(first.numel()).reshape(shape)
    where = matrices(step, arguments_of(name, first, 0), operand, index)
    assert where is not None
    assert np.array_equal(np.sort(where.reshape(-1)), np.arange(first.numel()))
    sums, random = Sums(where), np.random.default_rng(0)
    power = crossed = 0.0
    for seed in (10, 11):
        own, other = arguments_of(name, first, seed), arguments_of(name, second, seed + 20)
        sums.add(inputs(step, own, operand, EVERY, random), inputs(step, other, operand, EVERY, random))
        one, two = step.call(**own), step.call(**other)
        power += float(one.square().sum())
        crossed += float((one * two).sum())
    found = sums.moments()
    one, two = (w.reshape(-1).numpy()[where] for w in (first, second))
    assert found.cross is not None
    assert np.einsum("grj,gjk,grk->", one, found.square, one) == pytest.approx(power)
    assert np.einsum("grj,gjk,grk->", two, found.cross, one) == pytest.approx(crossed)


@pytest.mark.parametrize(
    ("equation", "other", "shape", "position"),
    [
        ("nchw,oc->nohw", (2, 5, 2, 3), (4, 5), 1),
        ("oc,nchw->nohw", (2, 5, 2, 3), (4, 5), 0),
        ("bhqd,hdk->bhqk", (2, 3, 2, 5), (3, 5, 4), 1),
        ("bqhd,hdo->bqo", (2, 3, 2, 5), (2, 5, 4), 1),
    ],
)
def test_einsum(equation: str, other: tuple[int, ...], shape: tuple[int, ...], position: int) -> None:
    step, operand = step_of("einsum"), Operand("values", position)
    weight, x = random_tensor(*shape, seed=1), random_tensor(*other, seed=2)
    values = [weight, x] if position == 0 else [x, weight]
    arguments = {"equation": equation, "values": values}
    where = matrices(step, arguments, operand, np.arange(weight.numel()).reshape(shape))
    assert where is not None
    sums = Sums(where)
    sums.add(inputs(step, arguments, operand, EVERY, np.random.default_rng(0)), None)
    own = weight.reshape(-1).numpy()[where]
    power = float(step.call(**arguments).square().sum())
    assert np.einsum("grj,gjk,grk->", own, sums.moments().square, own) == pytest.approx(power)


def test_an_einsum_that_sums_one_operand_alone_has_no_matrices() -> None:
    arguments = {"equation": "nc,oc->n", "values": [random_tensor(2, 5), random_tensor(4, 5)]}
    assert matrices(step_of("einsum"), arguments, Operand("values", 1), np.arange(20).reshape(4, 5)) is None


def test_a_part_of_the_positions_stands_for_all() -> None:
    """What is drawn is the same for the same seed, and counts as much as all positions together."""
    step, operand = step_of("conv"), Operand("weight")
    arguments = {"x": random_tensor(1, 3, 40, 40), "weight": random_tensor(2, 3, 3, 3), "pad_type": "same"}
    some = inputs(step, arguments, operand, 64, np.random.default_rng(5))
    again = inputs(step, arguments, operand, 64, np.random.default_rng(5))
    assert torch.equal(some.columns, again.columns)
    assert some.columns.shape == (1, 64, 27)
    assert some.counted == pytest.approx(1600 / 64)
    whole = inputs(step, arguments, operand, EVERY, np.random.default_rng(0)).columns[0]
    rows = {tuple(row.tolist()) for row in whole}
    assert all(tuple(row.tolist()) in rows for row in some.columns[0])


def recurrent(kind: str, gates: int, direction: str, **options: Any) -> dict[str, Any]:
    both = 2 if direction == "bidirectional" else 1
    found = {
        "x": random_tensor(5, 2, 3),
        "initial_h": random_tensor(2, 4 * both, seed=1),
        "weight_ih": random_tensor(gates * 4, 3, seed=2),
        "weight_hh": random_tensor(gates * 4, 4, seed=3),
        "direction": direction,
        **options,
    }
    if kind == "lstm":
        found["initial_c"] = random_tensor(2, 4 * both, seed=4)
    if both == 2:
        found["weight_ih_back"] = random_tensor(gates * 4, 3, seed=5)
        found["weight_hh_back"] = random_tensor(gates * 4, 4, seed=6)
    return found


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_states_of_an_lstm(direction: str) -> None:
    """Hidden states before each step, one step at a time."""
    step = step_of("lstm")
    arguments = recurrent("lstm", 4, direction)
    for parameter in ["weight_hh", *(["weight_hh_back"] if direction == "bidirectional" else [])]:
        back = parameter.endswith("_back")
        found = inputs(step, arguments, Operand(parameter), EVERY, np.random.default_rng(0)).columns[0]
        x = arguments["x"].flip(0) if back or direction == "reverse" else arguments["x"]
        pick = int(back) if direction == "bidirectional" else 0
        h, c = (arguments[name][:, 4 * pick : 4 * pick + 4] for name in ("initial_h", "initial_c"))
        suffix = "_back" if back else ""
        wanted = []
        for moment in x:
            wanted.append(h)
            one = {"x": moment[None], "initial_h": h, "initial_c": c, "weight_ih": arguments[f"weight_ih{suffix}"],
                   "weight_hh": arguments[f"weight_hh{suffix}"]}  # fmt: skip
            _, h, c = step.call(**one)
        torch.testing.assert_close(found, torch.cat(wanted))


@pytest.mark.parametrize("reset_after", [False, True])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_states_of_a_gru(direction: str, reset_after: bool) -> None:
    """The matrix of the output gate is multiplied with states that are reset already, or not yet."""
    step = step_of("gru")
    arguments = recurrent("gru", 3, direction, reset_after=reset_after)
    found = inputs(step, arguments, Operand("weight_hh"), EVERY, np.random.default_rng(0)).columns
    assert found.shape[0] == 3
    x = arguments["x"].flip(0) if direction == "reverse" else arguments["x"]
    h, states, resets = arguments["initial_h"], [], []
    for moment in x:
        gate = torch.sigmoid(moment @ arguments["weight_ih"][:4].T + h @ arguments["weight_hh"][:4].T)
        states.append(h)
        resets.append(h if reset_after else gate * h)
        h = step.call(**{**arguments, "x": moment[None], "initial_h": h, "direction": "forward"})[1]
    torch.testing.assert_close(found[0], torch.cat(states))
    torch.testing.assert_close(found[1], torch.cat(resets))
    torch.testing.assert_close(found[2], torch.cat(states))


def test_inputs_of_recurrent_layers() -> None:
    arguments = recurrent("rnn", 1, "forward")
    found = inputs(step_of("rnn"), arguments, Operand("weight_ih"), EVERY, np.random.default_rng(0)).columns
    assert torch.equal(found[0], arguments["x"].reshape(-1, 3))


def test_rows_that_a_look_up_reads() -> None:
    table = np.arange(12).reshape(4, 3)
    arguments = {"x": random_tensor(4, 3), "indices": torch.tensor([1, 1, 3]), "axis": 0}
    assert rows_read(step_of("gather"), arguments, table).tolist() == [3, 4, 5, 3, 4, 5, 9, 10, 11]
