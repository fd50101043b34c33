"""Recurrent layers by torch's own kernels, which take all steps at once, where they compute the same."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mil_palettize.torch.evaluator.ops.registry import Tensor

# Weights are rearranged in every call, which for few steps takes longer than the steps.
FEWEST_STEPS = 4
Direction = tuple[Tensor, Tensor, Tensor | None]  # weights for inputs and for states, and the bias
_LSTM_ORDER = (0, 1, 3, 2)  # torch has the cell gate before the output gate
_GRU_ORDER = (0, 2, 1)  # and the update gate before the one of new values


def check_sizes(x: Tensor, states: Sequence[Tensor], directions: Sequence[Direction], gates: int) -> None:
    """Raise ValueError where weights take other inputs or states, or have other rows than so many ``gates``: torch's
    kernels would read past their ends."""
    for weight_ih, weight_hh, bias in directions:
        rows = gates * weight_hh.shape[-1]
        for name, part in (("weight_ih", weight_ih), ("weight_hh", weight_hh), ("bias", bias)):
            if part is not None and len(part) != rows:
                raise ValueError(f"{name} has {len(part)} rows, {rows} are taken")
        if weight_ih.shape[-1] != x.shape[-1]:
            raise ValueError(f"weight_ih takes {weight_ih.shape[-1]} columns, x has {x.shape[-1]}")
        for state in states:
            if state.shape[-1] != weight_hh.shape[-1] * len(directions) or state.shape[:-1] != x.shape[1:-1]:
                wanted = [*x.shape[1:-1], weight_hh.shape[-1] * len(directions)]
                raise ValueError(f"an initial state has the shape {list(state.shape)}, {wanted} is taken")


def lstm(x: Tensor, h: Tensor, c: Tensor, directions: Sequence[Direction]) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states of all steps, (steps, batch, columns), and the last states: of one direction as the op ``lstm``
    gives them, of two side by side, the second one backwards in time and told in the order of the input. Sigmoid and
    tanh, no peepholes, no clipping. ``h``, ``c``: (batch, columns of all directions)."""
    parameters = [
        part
        for weight_ih, weight_hh, bias in directions
        for part in _parameters(weight_ih, weight_hh, bias, None, _LSTM_ORDER)
    ]
    has_biases, count = directions[0][2] is not None, len(directions)
    first = _layers(h, count), _layers(c, count)
    hidden, last_h, last_c = torch.lstm(x, first, parameters, has_biases, 1, 0.0, False, count > 1, False)
    return hidden, _columns(last_h), _columns(last_c)


def gru(
    x: Tensor, h: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor | None, input_bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Hidden states of all steps and the last one, as the op ``gru`` gives them with ``reset_after``, sigmoid and
    tanh."""
    return torch_gru(x, h, _parameters(weight_ih, weight_hh, bias, input_bias, _GRU_ORDER))


def torch_gru(x: Tensor, h: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """As :func:`gru`. ``parameters``: in torch's order, weights of inputs and states, then their biases, if any."""
    hidden, last = torch.gru(x, h[None], parameters, len(parameters) > 2, 1, 0.0, False, False, False)
    return hidden, last[0]


def _parameters(
    weight_ih: Tensor, weight_hh: Tensor, bias: Tensor | None, input_bias: Tensor | None, order: Sequence[int]
) -> list[Tensor]:
    """As torch takes them: biases of inputs before those of states, both or none."""
    given = [weight_ih, weight_hh]
    if bias is not None or input_bias is not None:
        zeros = weight_hh.new_zeros(len(weight_hh))
        given += [zeros if input_bias is None else input_bias, zeros if bias is None else bias]
    return [torch.cat([part.chunk(len(order))[gate] for gate in order]) for part in given]


def _layers(state: Tensor, directions: int) -> Tensor:
    return torch.stack(state.chunk(directions, -1))


def _columns(state: Tensor) -> Tensor:
    return torch.cat(state.unbind(0), -1)
