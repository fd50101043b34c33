"""Every kind of op that reads a weight, in a program: moments against inputs gathered one by one in float64, and both
streams against separate runs of the evaluator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

torch = pytest.importorskip("torch")

from evaluator import program_of, saved  # noqa: E402

from mil_palettize.torch import MILModule  # noqa: E402
from mil_palettize.torch.calibration.part import one_thread  # noqa: E402
from mil_palettize.torch.calibration.walk import Collected, WalkOptions, walk  # noqa: E402

EVERY = 10**6  # positions
Matrices = list[tuple[np.ndarray, np.ndarray]]  # of each matrix: the weight (rows, columns), inputs (count, columns)


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def conv(x: np.ndarray, weight: np.ndarray, *, groups: int, strides: list[int], dilations: list[int], pad: list[int]
         ) -> Matrices:  # fmt: skip
    """One row of inputs for every image and output position, element by element."""
    outputs, channels, *kernel = weight.shape
    padded = np.pad(x.astype(float), [(0, 0), (0, 0), *((pad[2 * i], pad[2 * i + 1]) for i in range(len(kernel)))])
    sizes = [
        (n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(padded.shape[2:], kernel, strides, dilations, strict=True)
    ]
    found = []
    for g in range(groups):
        rows = []
        for image, place in product(range(len(x)), product(*map(range, sizes))):
            row = []
            for c, offset in product(range(g * channels, (g + 1) * channels), product(*map(range, kernel))):
                where = tuple(p * s + o * d for p, s, o, d in zip(place, strides, offset, dilations, strict=True))
                row.append(padded[(image, c, *where)])
            rows.append(row)
        own = weight[g * outputs // groups : (g + 1) * outputs // groups]
        found.append((own.reshape(len(own), -1), np.array(rows)))
    return found


def conv_transpose(x: np.ndarray, weight: np.ndarray, *, groups: int, strides: list[int]) -> Matrices:
    """What each output position gets of every element of the kernel; no padding, kernel (inputs, outputs, h, w)."""
    inputs, outputs, *kernel = weight.shape
    own = inputs // groups
    sizes = [(n - 1) * s + k for n, k, s in zip(x.shape[2:], kernel, strides, strict=True)]
    found = []
    for g in range(groups):
        rows = []
        for image, place in product(range(len(x)), product(*map(range, sizes))):
            row = []
            for c, offset in product(range(g * own, (g + 1) * own), product(*map(range, kernel))):
                reached = [p - o for p, o in zip(place, offset, strict=True)]
                whole = all(r % s == 0 and 0 <= r // s < n
                            for r, s, n in zip(reached, strides, x.shape[2:], strict=True))  # fmt: skip
                at = tuple(r // s for r, s in zip(reached, strides, strict=True))
                row.append(float(x[(image, c, *at)]) if whole else 0.0)
            rows.append(row)
        part = weight[g * own : (g + 1) * own]
        found.append((np.moveaxis(part, 1, 0).reshape(outputs, -1), np.array(rows)))
    return found


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1.0 / (1.0 + np.exp(-x)))


def lstm_states(x: np.ndarray, ih: np.ndarray, hh: np.ndarray, *, back: bool) -> np.ndarray:
    """Hidden states before each step, in the order in which they are made; gates input, forget, output, cell."""
    h = c = np.zeros((x.shape[1], hh.shape[1]))
    before = []
    for step in x[::-1] if back else x:
        before.append(h)
        i, f, o, z = np.split(step @ ih.T.astype(float) + h @ hh.T.astype(float), 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(z)
        h = sigmoid(o) * np.tanh(c)
    return np.concatenate(before)


def rnn_states(x: np.ndarray, ih: np.ndarray, hh: np.ndarray) -> np.ndarray:
    h, before = np.zeros((x.shape[1], hh.shape[1])), []
    for step in x:
        before.append(h)
        h = np.tanh(step @ ih.T.astype(float) + h @ hh.T.astype(float))
    return np.concatenate(before)


def gru_states(x: np.ndarray, ih: np.ndarray, hh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """In reverse; states before each step, and these reset; gates reset, output, update."""
    h, before, reset = np.zeros((x.shape[1], hh.shape[1])), [], []
    wr, wo, wz = np.split(hh.astype(float), 3)
    for step in x[::-1]:
        in_r, in_o, in_z = np.split(step @ ih.T.astype(float), 3, axis=-1)
        r, z = sigmoid(in_r + h @ wr.T), sigmoid(in_z + h @ wz.T)
        before.append(h)
        reset.append(r * h)
        h = (1 - z) * np.tanh(in_o + (r * h) @ wo.T) + z * h
    return np.concatenate(before), np.concatenate(reset)


@dataclass(frozen=True)
class Case:
    """``build``: the network of one input; ``weights``: by part of their names, to the matrices for an input."""

    build: Callable[[Any], Any]
    shape: tuple[int, ...]
    weights: dict[str, Callable[[np.ndarray], Matrices]] = field(default_factory=dict)


def _conv(groups: int, **options: list[int]) -> Case:
    weight = drawn(4, 4 // groups, 3, 2, seed=1)
    plain: dict[str, Any] = {"strides": [1, 1], "dilations": [1, 1], "pad": [0, 0, 0, 0], **options}
    return Case(
        lambda x: mb.conv(x=x, weight=mb.const(val=weight, name="w"), groups=groups, pad_type="custom", **plain),
        (1, 4, 8, 7), {"w": lambda x: conv(x, weight, groups=groups, **plain)},
    )  # fmt: skip


def _conv_transpose(groups: int, strides: list[int]) -> Case:
    weight = drawn(4, 3, 3, 2, seed=1)
    return Case(
        lambda x: mb.conv_transpose(
            x=x, weight=mb.const(val=weight, name="w"), groups=groups, strides=strides, pad_type="valid"
        ),
        (1, 4, 4, 3), {"w": lambda x: conv_transpose(x, weight, groups=groups, strides=strides)},
    )  # fmt: skip


def _product(shape: tuple[int, ...], build: Callable[[Any, Any], Any], weight: np.ndarray,
             matrices: Callable[[np.ndarray], Matrices]) -> Case:  # fmt: skip
    return Case(lambda x: build(x, mb.const(val=weight, name="w")), shape, {"w": matrices})


def _lstm() -> Case:
    ih, hh, ih_back, hh_back = (drawn(16, size, seed=seed) for seed, size in enumerate((3, 4, 3, 4)))
    state = np.zeros((1, 8), np.float32)
    named = {"ih": ih, "hh": hh, "ihback": ih_back, "hhback": hh_back}

    def build(x: Any) -> Any:
        w = {name: mb.const(val=value, name=name) for name, value in named.items()}
        return mb.lstm(
            x=x, initial_h=state, initial_c=state, weight_ih=w["ih"], weight_hh=w["hh"], weight_ih_back=w["ihback"],
            weight_hh_back=w["hhback"], direction="bidirectional", output_sequence=True,
        )[0]  # fmt: skip

    return Case(build, (5, 1, 3), {
        "ih": lambda x: [(ih, x.reshape(-1, 3))],
        "hh": lambda x: [(hh, lstm_states(x, ih, hh, back=False))],
        "ihback": lambda x: [(ih_back, x.reshape(-1, 3))],
        "hhback": lambda x: [(hh_back, lstm_states(x, ih_back, hh_back, back=True))],
    })  # fmt: skip


def _rnn() -> Case:
    ih, hh = drawn(4, 3, seed=1), drawn(4, 4, seed=2)

    def build(x: Any) -> Any:
        w = [mb.const(val=value, name=name) for name, value in (("ih", ih), ("hh", hh))]
        return mb.rnn(x=x, initial_h=np.zeros((1, 4), np.float32), weight_ih=w[0], weight_hh=w[1],
                      output_sequence=True, activation="tanh")[0]  # fmt: skip

    return Case(build, (5, 1, 3), {"ih": lambda x: [(ih, x.reshape(-1, 3))],
                                   "hh": lambda x: [(hh, rnn_states(x, ih, hh))]})  # fmt: skip


def _gru() -> Case:
    ih, hh = drawn(12, 3, seed=1), drawn(12, 4, seed=2)

    def build(x: Any) -> Any:
        w = [mb.const(val=value, name=name) for name, value in (("ih", ih), ("hh", hh))]
        return mb.gru(x=x, initial_h=np.zeros((1, 4), np.float32), weight_ih=w[0], weight_hh=w[1],
                      direction="reverse", output_sequence=True, reset_after=False)[0]  # fmt: skip

    def states(x: np.ndarray) -> Matrices:
        before, reset = gru_states(x, ih, hh)
        return [(hh[:4], before), (hh[4:8], reset), (hh[8:], before)]

    return Case(build, (5, 1, 3), {"ih": lambda x: [(ih, x.reshape(-1, 3))], "hh": states})


SQUARE, WIDE, BATCH = drawn(5, 4, seed=1), drawn(4, 5, seed=2), drawn(3, 5, 4, seed=3)
TURNED = drawn(5, 2, 4, seed=4)
CASES = {
    "conv": _conv(1, pad=[1, 1, 0, 1]),
    "conv with strides": _conv(1, strides=[2, 3]),
    "conv with dilations": _conv(1, dilations=[2, 3]),
    "conv in groups": _conv(2, strides=[1, 2], pad=[1, 0, 1, 0]),
    "depthwise conv": _conv(4),
    "conv_transpose": _conv_transpose(1, [2, 1]),
    "conv_transpose in groups": _conv_transpose(2, [2, 2]),
    "linear": _product((3, 5), lambda x, w: mb.linear(x=x, weight=w), WIDE, lambda x: [(WIDE, x)]),
    "matmul": _product((3, 5), lambda x, w: mb.matmul(x=x, y=w), SQUARE, lambda x: [(SQUARE.T, x)]),
    "matmul, y transposed": _product(
        (3, 5), lambda x, w: mb.matmul(x=x, y=w, transpose_y=True), WIDE, lambda x: [(WIDE, x)]
    ),
    "matmul, x transposed": _product(
        (5, 3), lambda x, w: mb.matmul(x=x, y=w, transpose_x=True), SQUARE, lambda x: [(SQUARE.T, x.T)]
    ),
    "matmul from the left": _product((5, 3), lambda x, w: mb.matmul(x=w, y=x), WIDE, lambda x: [(WIDE, x.T)]),
    "matmul from the left, transposed": _product(
        (5, 3), lambda x, w: mb.matmul(x=w, y=x, transpose_x=True), SQUARE, lambda x: [(SQUARE.T, x.T)]
    ),
    "matmul in batches": _product(
        (3, 2, 5), lambda x, w: mb.matmul(x=x, y=w), BATCH, lambda x: [(BATCH[i].T, x[i]) for i in range(3)]
    ),
    "einsum": _product(
        (3, 2, 5), lambda x, w: mb.einsum(values=(x, w), equation="chw,whr->chr"), TURNED,
        lambda x: [(TURNED[:, h].T, x[:, h]) for h in range(2)],
    ),
    "lstm": _lstm(),
    "rnn": _rnn(),
    "gru": _gru(),
}  # fmt: skip


def opened(case: Case, folder: Path) -> MILModule:
    return MILModule.from_package(saved(program_of(case.build, [(case.shape, np.float32)]), folder))


def samples(case: Case, first: int) -> list[dict[str, torch.Tensor]]:
    return [{"x0": torch.from_numpy(drawn(*case.shape, seed=seed))} for seed in range(first, first + 5)]


@pytest.mark.parametrize("name", CASES)
def test_moments(tmp_path: Path, name: str) -> None:
    """Of the inputs of both streams, which begin with other samples each."""
    case = CASES[name]
    module, floats, others = opened(case, tmp_path), samples(case, 10), samples(case, 20)
    found: dict[str, Collected] = {}

    def solve(collected: Collected) -> None:
        found[collected.slot] = collected

    weights = {slot: weight.detach().numpy() for slot, weight in module.weights.items()}
    walk(module, floats, list(weights), solve, WalkOptions(positions=EVERY), palettized=others)
    assert found.keys() == case.weights.keys()
    for slot, collected in found.items():
        (moments,) = collected.moments
        pairs = [
            (case.weights[slot](one["x0"].numpy()), case.weights[slot](two["x0"].numpy()))
            for one, two in zip(floats, others, strict=True)
        ]
        matrix = np.stack([weight for weight, _ in pairs[0][0]])
        assert np.array_equal(weights[slot].reshape(-1)[moments.where], matrix)
        assert moments.cross is not None
        for g in range(len(matrix)):
            square = sum(other[g][1].T.astype(float) @ other[g][1] for _, other in pairs)
            cross = sum(own[g][1].T.astype(float) @ other[g][1] for own, other in pairs)
            scale = float(np.abs(square).max())
            np.testing.assert_allclose(moments.square[g], square, rtol=1e-4, atol=1e-5 * scale)
            np.testing.assert_allclose(moments.cross[g], cross, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("name", CASES)
def test_streams(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    module, data = opened(case, tmp_path), samples(case, 10)
    coarse = {slot: np.round(weight.detach().numpy()) for slot, weight in module.weights.items()}
    walked = walk(module, data, list(coarse), lambda found: coarse[found.slot], WalkOptions())
    with torch.no_grad(), one_thread():
        before = [module.run(sample) for sample in data]
        for slot, array in coarse.items():
            module.weights[slot].copy_(torch.from_numpy(array))
        after = [module.run(sample) for sample in data]
    for found, wanted in ((walked.before, before), (walked.after, after)):
        assert all(torch.equal(one[n], two[n]) for one, two in zip(found, wanted, strict=True) for n in two)
    assert any(not torch.equal(one[n], two[n]) for one, two in zip(before, after, strict=True) for n in two)


def test_rows_of_a_table_by_how_often_they_are_read(tmp_path: Path) -> None:
    table = drawn(9, 4)
    program = program_of(
        lambda i: mb.gather(x=mb.const(val=table, name="table"), indices=i, axis=0), [((6,), np.int32)]
    )
    module = MILModule.from_package(saved(program, tmp_path))
    data = [{"x0": torch.from_numpy(np.random.default_rng(i).integers(0, 7, 6).astype(np.int32))} for i in range(5)]
    found: list[Collected] = []
    walk(module, data, ["table"], found.append, WalkOptions(held=frozenset({4})))
    counts = np.bincount(np.concatenate([sample["x0"].numpy() for sample in data[:4]]), minlength=9)
    assert found[0].reads is not None
    assert np.array_equal(found[0].reads, np.tile(counts[:, None], 4))
    assert not found[0].moments
