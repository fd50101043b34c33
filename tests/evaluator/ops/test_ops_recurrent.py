"""Recurrent layers, against torch's and against numpy for what torch's have not."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest

torch = pytest.importorskip("torch")
from evaluator import against_torch, evaluated, mb, same  # noqa: E402

from mil_palettize.torch.evaluator.ops import OPS, fused_recurrent  # noqa: E402

STEPS, BATCH, INPUTS, HIDDEN = 4, 2, 3, 5
rng = np.random.default_rng(0)
ACTIVATIONS = {
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "scaled_tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "hard_sigmoid": lambda x: np.minimum(np.maximum(0.2 * x + 0.5, 0), 1),
    "sigmoid_hard": lambda x: np.minimum(np.maximum(0.2 * x + 0.5, 0), 1),
    "linear": lambda x: x,
}


def floats(*shape: int) -> np.ndarray:
    return rng.uniform(-1, 1, shape).astype(np.float32)


def weights(gates: int, bias: bool = True) -> dict[str, np.ndarray]:
    found = {"weight_ih": floats(gates * HIDDEN, INPUTS), "weight_hh": floats(gates * HIDDEN, HIDDEN)}
    return {**found, "bias": floats(gates * HIDDEN)} if bias else found


def in_numpy(step, x, states, reverse):
    """All hidden states in the order they are made, and the last states."""
    made = []
    for t in reversed(range(len(x))) if reverse else range(len(x)):
        states = step(x[t], *states)
        made.append(states[0])
    return np.stack(made), states


def rnn_step(w, activation):
    def step(x, h):
        return (ACTIVATIONS[activation](x @ w["weight_ih"].T + h @ w["weight_hh"].T + w.get("bias", 0)),)

    return step


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu", "sigmoid_hard", "scaled_tanh", "linear"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_rnn(activation, reverse, whole):
    x, h, w = floats(STEPS, BATCH, INPUTS), floats(BATCH, HIDDEN), weights(1, bias=whole)
    options = {"direction": "reverse" if reverse else "forward", "output_sequence": whole, "activation": activation}
    made, states = in_numpy(rnn_step(w, activation), x, (h,), reverse)
    found = evaluated(lambda x, h: mb.rnn(x=x, initial_h=h, **w, **options), x, h)
    same(found, [made if whole else made[-1:], *states], rtol=1e-4, atol=1e-5)


def gru_step(w, recurrent="sigmoid", activation="tanh", reset_after=False):
    recurrent, activation = ACTIVATIONS[recurrent], ACTIVATIONS[activation]
    (w_r, w_o, w_z), (r_r, r_o, r_z) = np.split(w["weight_ih"], 3), np.split(w["weight_hh"], 3)
    b_r, b_o, b_z = np.split(w.get("bias", np.zeros(3 * HIDDEN)), 3)
    i_r, i_o, i_z = np.split(w.get("input_bias", np.zeros(3 * HIDDEN)), 3)

    def step(x, h):
        r = recurrent(w_r @ x + r_r @ h + b_r + i_r)
        z = recurrent(w_z @ x + r_z @ h + b_z + i_z)
        kept = r * (r_o @ h + b_o) if reset_after else r_o @ (r * h) + b_o
        return (1 - z) * activation(w_o @ x + kept + i_o) + z * h

    return lambda x, h: (np.stack([step(*pair) for pair in zip(x, h, strict=True)]),)


@pytest.mark.parametrize("activations", [("sigmoid", "tanh"), ("tanh", "sigmoid"), ("hard_sigmoid", "relu")])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_gru(activations, reverse, whole):
    x, h, w = floats(STEPS, BATCH, INPUTS), floats(BATCH, HIDDEN), weights(3, bias=whole)
    recurrent, activation = activations
    options = {"recurrent_activation": recurrent, "activation": activation, "output_sequence": whole}
    options["direction"] = "reverse" if reverse else "forward"
    made, states = in_numpy(gru_step(w, recurrent, activation), x, (h,), reverse)
    found = evaluated(lambda x, h: mb.gru(x=x, initial_h=h, **w, **options), x, h, target=ct.target.iOS17)
    same(found, [made if whole else made[-1:], *states], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reset_after", [False, True])
def test_gru_with_two_biases(reset_after):
    x, h, w = floats(STEPS, BATCH, INPUTS), floats(BATCH, HIDDEN), {**weights(3), "input_bias": floats(3 * HIDDEN)}
    made, states = in_numpy(gru_step(w, reset_after=reset_after), x, (h,), False)

    def build(x, h):
        return mb.gru(x=x, initial_h=h, **w, output_sequence=True, reset_after=reset_after)

    same(evaluated(build, x, h), [made, *states], rtol=1e-4, atol=1e-5)


def test_gru_that_resets_after_is_that_of_torch():
    x, h, layer = floats(STEPS, BATCH, INPUTS), floats(BATCH, HIDDEN), torch.nn.GRU(INPUTS, HIDDEN)
    names = {"weight_ih": "weight_ih_l0", "weight_hh": "weight_hh_l0", "bias": "bias_hh_l0", "input_bias": "bias_ih_l0"}
    w = {}
    for name, theirs in names.items():
        r, z, n = np.split(getattr(layer, theirs).detach().numpy(), 3)
        w[name] = np.concatenate((r, n, z))

    def build(x, h):
        return mb.gru(x=x, initial_h=h, **w, output_sequence=True, reset_after=True)

    with torch.no_grad():
        made, last = layer(torch.tensor(x), torch.tensor(h)[None])
    same(evaluated(build, x, h), [made.numpy(), last[0].numpy()], rtol=1e-4, atol=1e-5)


def lstm_step(w, recurrent="sigmoid", cell="tanh", activation="tanh", clip=np.inf):
    recurrent, cell, activation = ACTIVATIONS[recurrent], ACTIVATIONS[cell], ACTIVATIONS[activation]
    p_i, p_f, p_o = np.split(w.get("peephole", np.zeros(3 * HIDDEN)), 3)

    def step(x, h, c):
        i, f, o, g = np.split(w["weight_ih"] @ x + w["weight_hh"] @ h + w.get("bias", 0), 4)
        c = recurrent(f + p_f * c) * c + recurrent(i + p_i * c) * cell(g)
        c = np.clip(c, -clip, clip)
        return recurrent(o + p_o * c) * activation(c), c

    return lambda *all_of: tuple(map(np.stack, zip(*map(step, *all_of), strict=True)))


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu", "hard_sigmoid", "scaled_tanh", "linear"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_lstm(activation, reverse, whole):
    x, h, c = floats(STEPS, BATCH, INPUTS), floats(BATCH, HIDDEN), floats(BATCH, HIDDEN)
    w, peephole, clip = weights(4, bias=whole), {"peephole": floats(3 * HIDDEN)} if reverse else {}, np.float32(0.3)
    chosen = {"recurrent_activation": activation, "cell_activation": "hard_sigmoid", "activation": "tanh"}
    options = {"direction": "reverse" if reverse else "forward", "output_sequence": whole, **chosen}
    if whole:
        options["clip"] = clip
    step = lstm_step({**w, **peephole}, *chosen.values(), clip=clip if whole else np.inf)
    made, states = in_numpy(step, x, (h, c), reverse)
    found = evaluated(lambda x, h, c: mb.lstm(x=x, initial_h=h, initial_c=c, **w, **peephole, **options), x, h, c)
    same(found, [made if whole else made[-1:], *states], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("whole", [False, True])
def test_bidirectional_lstm(whole):
    x, h, c = floats(STEPS, BATCH, INPUTS), floats(BATCH, 2 * HIDDEN), floats(BATCH, 2 * HIDDEN)
    ways = [{**weights(4, bias=whole), "peephole": floats(3 * HIDDEN)} for _ in range(2)]
    given = {**ways[0], **{f"{name}_back": value for name, value in ways[1].items()}}
    halves = [(h[:, :HIDDEN], c[:, :HIDDEN]), (h[:, HIDDEN:], c[:, HIDDEN:])]
    forth, back = (in_numpy(lstm_step(w), x, s, bool(i)) for i, (w, s) in enumerate(zip(ways, halves, strict=True)))
    states = [np.concatenate(pair, -1) for pair in zip(forth[1], back[1], strict=True)]
    made = np.concatenate((forth[0], back[0][::-1]), -1) if whole else states[0][None]

    def build(x, h, c):
        options = {"direction": "bidirectional", "output_sequence": whole}
        return mb.lstm(x=x, initial_h=h, initial_c=c, **given, **options)

    same(evaluated(build, x, h, c), [made, *states], rtol=1e-4, atol=1e-5)


class Layer(torch.nn.Module):
    """Gives the sequence and the states, one after another; states may be given."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x, *states):
        given = (states[0] if len(states) == 1 else states) if states else None
        made, last = self.layer(x, given)
        return (made, *last) if isinstance(last, tuple) else (made, last)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bidirectional": True},
        {"num_layers": 2, "bias": False},
        {"num_layers": 2, "bidirectional": True, "batch_first": True},
    ],
)
def test_lstm_of_torch(options):
    layer = Layer(torch.nn.LSTM(INPUTS, HIDDEN, **options))
    x = floats(STEPS, BATCH, INPUTS)
    against_torch(layer, x)
    count = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    batch = STEPS if options.get("batch_first") else BATCH
    against_torch(layer, x, floats(count, batch, HIDDEN), floats(count, batch, HIDDEN), target=ct.target.iOS15)


@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2, "batch_first": True}])
def test_gru_of_torch(options):
    """Which coremltools converts to a loop of other ops."""
    against_torch(Layer(torch.nn.GRU(INPUTS, HIDDEN, **options)), floats(STEPS, BATCH, INPUTS))


@pytest.mark.parametrize(
    "options", [{}, {"nonlinearity": "relu", "bias": False}, {"num_layers": 2, "batch_first": True}]
)
def test_rnn_of_torch(options):
    against_torch(Layer(torch.nn.RNN(INPUTS, HIDDEN, **options)), floats(STEPS, BATCH, INPUTS))


def test_gradients_flow_through_time():
    x, h, c = (
        torch.tensor(a, requires_grad=True) for a in (floats(3, 1, INPUTS), floats(1, HIDDEN), floats(1, HIDDEN))
    )
    w = {name: torch.tensor(value, requires_grad=True) for name, value in weights(4).items()}
    OPS["lstm"].function(x, h, c, **w)[1].sum().backward()
    assert all(t.grad is not None and bool(t.grad.abs().sum() > 0) for t in (x, h, c, *w.values()))


# Torch's own kernels, against the plain form of the ops


def both_forms(monkeypatch, kind, *inputs, **options):
    """Results and gradients of every input by torch's kernels, and step by step."""
    found = []
    for fewest in (1, 1000):
        monkeypatch.setattr(fused_recurrent, "FEWEST_STEPS", fewest)
        given = [torch.tensor(array, dtype=torch.float64, requires_grad=True) for array in inputs]
        named = {
            name: torch.tensor(value, dtype=torch.float64, requires_grad=True)
            if isinstance(value, np.ndarray)
            else value
            for name, value in options.items()
        }
        results = OPS[kind].function(*given, **named)
        sum((result**2).sum() for result in results).backward()
        leaves = [*given, *(value for value in named.values() if isinstance(value, torch.Tensor))]
        found.append([*(result.detach() for result in results), *(leaf.grad for leaf in leaves)])
    return found


def count_calls(monkeypatch, name):
    calls = []
    original = getattr(fused_recurrent, name)
    monkeypatch.setattr(fused_recurrent, name, lambda *a: calls.append(name) or original(*a))
    return calls


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_torch_kernels_of_lstm_compute_the_same(direction, whole, bias, monkeypatch):
    ways = 2 if direction == "bidirectional" else 1
    inputs = floats(7, BATCH, INPUTS), floats(BATCH, ways * HIDDEN), floats(BATCH, ways * HIDDEN)
    options = weights(4, bias=bias)
    if ways == 2:
        options |= {f"{name}_back": value for name, value in weights(4, bias=bias).items()}
    calls = count_calls(monkeypatch, "lstm")
    fused, plain = both_forms(monkeypatch, "lstm", *inputs, **options, direction=direction, output_sequence=whole)
    assert calls == ["lstm"]
    for one, two in zip(fused, plain, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("biases", [(), ("bias",), ("input_bias",), ("bias", "input_bias")])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_torch_kernels_of_gru_compute_the_same(direction, whole, biases, monkeypatch):
    inputs = floats(7, BATCH, INPUTS), floats(BATCH, HIDDEN)
    options = weights(3, bias=False) | {name: floats(3 * HIDDEN) for name in biases}
    calls = count_calls(monkeypatch, "gru")
    options |= {"direction": direction, "output_sequence": whole, "reset_after": True}
    fused, plain = both_forms(monkeypatch, "gru", *inputs, **options)
    assert calls == ["gru"]
    for one, two in zip(fused, plain, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("lstm", {"clip": 0.5}),
        ("lstm", {"peephole": floats(3 * HIDDEN)}),
        ("lstm", {"activation": "relu"}),
        ("lstm", {"recurrent_activation": "hard_sigmoid"}),
        ("gru", {"reset_after": False}),
        ("gru", {"reset_after": True, "activation": "linear"}),
    ],
)
def test_what_torch_kernels_do_not_have_goes_step_by_step(kind, options, monkeypatch):
    states = [floats(BATCH, HIDDEN)] * (2 if kind == "lstm" else 1)
    calls = count_calls(monkeypatch, kind)
    fused, plain = both_forms(
        monkeypatch, kind, floats(7, BATCH, INPUTS), *states, **weights(4 if kind == "lstm" else 3), **options
    )
    assert not calls
    assert all(torch.equal(one, two) for one, two in zip(fused, plain, strict=True))


@pytest.mark.parametrize("steps", [1, 9])
@pytest.mark.parametrize(("op", "states"), [("lstm", ("initial_h", "initial_c")), ("gru", ("initial_h",))])
def test_weights_of_other_sizes_are_refused(op, states, steps):
    """torch's kernels do not look: they read whatever lies behind the input."""
    gates = 4 if op == "lstm" else 3
    given = {name: torch.zeros(1, 8) for name in states}
    weights = {"weight_ih": torch.zeros(gates * 8, 20), "weight_hh": torch.zeros(gates * 8, 8)}
    if op == "gru":
        given["reset_after"] = True
    with pytest.raises(ValueError, match="weight_ih takes 20 columns, x has 16"):
        OPS[op].function(x=torch.zeros(steps, 1, 16), **given, **weights)
    for name in states:
        with pytest.raises(ValueError, match=r"an initial state has the shape \[1, 6\], \[1, 8\] is taken"):
            OPS[op].function(x=torch.zeros(steps, 1, 20), **{**given, name: torch.zeros(1, 6)}, **weights)
    for name in ("weight_ih", "weight_hh", "bias"):
        part = weights.get(name, torch.zeros(gates * 8))[:-4]
        with pytest.raises(ValueError, match=f"{name} has {gates * 8 - 4} rows, {gates * 8} are taken"):
            OPS[op].function(x=torch.zeros(steps, 1, 20), **{**given, **weights, name: part})
