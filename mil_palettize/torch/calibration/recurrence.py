"""What the matrices of recurrent layers are multiplied with: inputs, and the states before each step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional as F

from mil_palettize.torch.evaluator.ops.recurrent import ACTIVATIONS


def recurrent_inputs(
    op_type: str, call: Callable[..., Any], arguments: Mapping[str, Any], parameter: str
) -> list[torch.Tensor]:
    """(inputs, columns) for each matrix that the weight is made of: one, or for the states of ``gru`` one for each of
    its three gates, since the output gate may see the state already reset."""
    x = arguments["x"]
    if parameter.startswith("weight_ih"):
        return [x.reshape(-1, x.shape[-1])]
    states = _states_before(op_type, call, arguments, back=parameter.endswith("_back"))
    flat = states.reshape(-1, states.shape[-1])
    if op_type != "gru":
        return [flat]
    if arguments.get("reset_after", False):
        return [flat, flat, flat]
    return [flat, _reset(arguments, states).reshape(flat.shape), flat]


def _states_before(op_type: str, call: Callable[..., Any], arguments: Mapping[str, Any], *, back: bool) -> torch.Tensor:
    """(steps, batch, columns), in the order in which they are made."""
    hidden = call(**{**arguments, "output_sequence": True})[0]
    first = arguments["initial_h"]
    if arguments.get("direction", "forward") == "bidirectional":
        number = int(back)
        hidden, first = hidden.chunk(2, -1)[number], first.chunk(2, -1)[number]
        hidden = hidden.flip(0) if back else hidden
    return torch.cat((first[None], hidden[:-1]))


def _reset(arguments: Mapping[str, Any], states: torch.Tensor) -> torch.Tensor:
    """States as the output gate of a ``gru`` sees them."""
    x = arguments["x"]
    x = x.flip(0) if arguments.get("direction", "forward") == "reverse" else x
    act = ACTIVATIONS[arguments.get("recurrent_activation", "sigmoid").lower()]
    bias, input_bias = arguments.get("bias"), arguments.get("input_bias")
    own = F.linear(x, arguments["weight_ih"].chunk(3)[0], None if input_bias is None else input_bias.chunk(3)[0])
    fed = F.linear(states, arguments["weight_hh"].chunk(3)[0], None if bias is None else bias.chunk(3)[0])
    return act(own + fed) * states
