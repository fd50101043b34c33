"""Reading and writing states: values that outlive a prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mil_palettize.errors import EvaluationError
from mil_palettize.torch.evaluator.memory import claim, one_line
from mil_palettize.torch.evaluator.ops.registry import Tensor, op


@dataclass
class State:
    """What a state holds now."""

    value: Tensor


def zero_state(name: str, shape: Sequence[int], dtype: torch.dtype) -> State:
    """What a state holds before anything is written. Raises EvaluationError for one that does not fit in memory."""
    try:
        claim(shape, dtype)
        return State(torch.zeros(tuple(shape), dtype=dtype))
    except (MemoryError, RuntimeError, TypeError) as error:  # torch has its own words for sizes that it cannot hold
        told = f"state {name!r} of shape {list(shape)} cannot be made: {one_line(error)}"
        raise EvaluationError(told) from error


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
