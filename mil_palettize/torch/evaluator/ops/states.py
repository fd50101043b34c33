"""Reading and writing states: values that outlive a prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mil_palettize.torch.evaluator.ops.registry import Tensor, op


@dataclass
class State:
    """What a state holds now."""

    value: Tensor


@op("read_state")
def read_state(input: Any) -> Tensor:
    return input.value


@op("write_state")
def write_state(input: Any, data: Tensor) -> tuple[()]:
    """Has no output."""
    input.value = data
    return ()


@op("coreml_update_state")
def coreml_update_state(state: Any, value: Tensor) -> Tensor:
    """Programs inside coremltools hold it; in a saved one it has become a ``write_state`` and a ``read_state``."""
    state.value = value
    return value
