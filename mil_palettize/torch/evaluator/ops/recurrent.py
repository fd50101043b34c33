"""Recurrent layers: over sequences [s, b, ...], a step at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from mil_palettize.torch.evaluator.ops import fused_recurrent
from mil_palettize.torch.evaluator.ops.registry import Flag, Number, Tensor, Text, op

# Arguments: what the input contributes to the gates, then the states. Result: the next states, the hidden one first.
StepFunction = Callable[..., tuple[Tensor, ...]]


def _hard_sigmoid(x: Tensor) -> Tensor:
    return (0.2 * x + 0.5).clamp(0, 1)


def _linear(x: Tensor) -> Tensor:
    return x


# By name in lowercase. The ops have no parameters for them, so that a scaled tanh is scaled by 1.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "scaled_tanh": torch.tanh,
    "relu": torch.relu,
    "hard_sigmoid": _hard_sigmoid,
    "sigmoid_hard": _hard_sigmoid,
    "linear": _linear,
}


def _fits_torch(x: Tensor, recurrent: str, *others: str) -> bool:
    """Whether torch's kernels have these activations, and there are steps enough for them."""
    names = {"tanh", "scaled_tanh"}
    usual = recurrent.lower() == "sigmoid" and all(name.lower() in names for name in others)
    return usual and len(x) >= fused_recurrent.FEWEST_STEPS


def _run(
    x: Tensor, weight: Tensor, bias: Tensor | None, reverse: bool, states: tuple[Tensor, ...], step: StepFunction
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Hidden states of all steps in the order they are made, and the last states.

    The input of all steps is multiplied by ``weight`` at once, before the first step.
    """
    inputs = F.linear(x, weight, bias)
    hidden = []
    for gates in inputs.flip(0) if reverse else inputs:
        states = step(gates, *states)
        hidden.append(states[0])
    return torch.stack(hidden), states


@op("rnn")
def rnn(
    x: Tensor, initial_h: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor | None = None,
    direction: Text = "forward", output_sequence: Flag = False, activation: Text = "tanh",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """In reverse the sequence comes out as it is made, the last element's state first."""
    act = ACTIVATIONS[activation.lower()]

    def step(gates: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        return (act(gates + F.linear(h, weight_hh)),)

    hidden, (h,) = _run(x, weight_ih, bias, direction == "reverse", (initial_h,), step)
    return hidden if output_sequence else hidden[-1:], h


@op("gru")
def gru(
    x: Tensor, initial_h: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor | None = None,
    direction: Text = "forward", output_sequence: Flag = False, recurrent_activation: Text = "sigmoid",
    activation: Text = "tanh", reset_after: Flag = False, input_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Weights and biases are those of the reset, output and update gate. In reverse as ``rnn``.

    ``reset_after``: the state is multiplied with its weights first, and reset then, as in torch.
    """
    fused_recurrent.check_sizes(x, [initial_h], [(weight_ih, weight_hh, bias)], 3)
    if reset_after and _fits_torch(x, recurrent_activation, activation):
        x = x.flip(0) if direction == "reverse" else x
        hidden, last = fused_recurrent.gru(x, initial_h, weight_ih, weight_hh, bias, input_bias)
        return hidden if output_sequence else hidden[-1:], last
    recurrent, act = ACTIVATIONS[recurrent_activation.lower()], ACTIVATIONS[activation.lower()]
    weight_r, weight_o, weight_z = weight_hh.chunk(3)
    bias_r, bias_o, bias_z = (None, None, None) if bias is None else bias.chunk(3)

    def step(gates: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        in_r, in_o, in_z = gates.chunk(3, -1)
        r = recurrent(in_r + F.linear(h, weight_r, bias_r))
        z = recurrent(in_z + F.linear(h, weight_z, bias_z))
        kept = r * F.linear(h, weight_o, bias_o) if reset_after else F.linear(r * h, weight_o, bias_o)
        return ((1 - z) * act(in_o + kept) + z * h,)

    hidden, (h,) = _run(x, weight_ih, input_bias, direction == "reverse", (initial_h,), step)
    return hidden if output_sequence else hidden[-1:], h


@op("lstm")
def lstm(
    x: Tensor, initial_h: Tensor, initial_c: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor | None = None,
    peephole: Tensor | None = None, weight_ih_back: Tensor | None = None, weight_hh_back: Tensor | None = None,
    bias_back: Tensor | None = None, peephole_back: Tensor | None = None, direction: Text = "forward",
    output_sequence: Flag = False, recurrent_activation: Text = "sigmoid", cell_activation: Text = "tanh",
    activation: Text = "tanh", clip: Number | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """In reverse as ``rnn``; of a bidirectional layer both halves are in the order of the input."""
    directions: list[fused_recurrent.Direction] = [(weight_ih, weight_hh, bias)]
    if direction == "bidirectional":
        assert weight_ih_back is not None
        assert weight_hh_back is not None
        directions.append((weight_ih_back, weight_hh_back, bias_back))
    fused_recurrent.check_sizes(x, [initial_h, initial_c], directions, 4)
    bare = peephole is None and peephole_back is None and clip is None and len({d[2] is None for d in directions}) == 1
    if bare and _fits_torch(x, recurrent_activation, cell_activation, activation):
        x = x.flip(0) if direction == "reverse" else x
        hidden, h, c = fused_recurrent.lstm(x, initial_h, initial_c, directions)
        last = hidden[-1:] if len(directions) == 1 else h[None]
        return hidden if output_sequence else last, h, c
    activations = [ACTIVATIONS[name.lower()] for name in (recurrent_activation, cell_activation, activation)]
    forth = _lstm_step(weight_hh, peephole, activations, clip)
    if len(directions) == 1:
        hidden, (h, c) = _run(x, weight_ih, bias, direction == "reverse", (initial_h, initial_c), forth)
        return hidden if output_sequence else hidden[-1:], h, c
    weight_ih_back, weight_hh_back, bias_back = directions[1]
    back = _lstm_step(weight_hh_back, peephole_back, activations, clip)
    first, second = zip(initial_h.chunk(2, -1), initial_c.chunk(2, -1), strict=True)
    hidden, states = _run(x, weight_ih, bias, False, first, forth)
    hidden_back, states_back = _run(x, weight_ih_back, bias_back, True, second, back)
    h, c = (torch.cat(pair, -1) for pair in zip(states, states_back, strict=True))
    return torch.cat((hidden, hidden_back.flip(0)), -1) if output_sequence else h[None], h, c


def _lstm_step(
    weight: Tensor, peephole: Tensor | None, activations: list[Callable[[Tensor], Tensor]], clip: float | None
) -> StepFunction:
    """Gates: input, forget, output, cell. The output gate peeps at the new cell, after it is clipped."""
    recurrent, cell, output = activations
    peep_i, peep_f, peep_o = (None, None, None) if peephole is None else peephole.chunk(3)

    def gate(value: Tensor, peep: Tensor | None, c: Tensor) -> Tensor:
        return recurrent(value if peep is None else value + peep * c)

    def step(gates: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        i, f, o, z = (gates + F.linear(h, weight)).chunk(4, -1)
        c = gate(f, peep_f, c) * c + gate(i, peep_i, c) * cell(z)
        if clip is not None:
            c = c.clamp(-clip, clip)
        return gate(o, peep_o, c) * output(c), c

    return step
