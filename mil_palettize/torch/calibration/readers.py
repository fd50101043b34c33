"""How each kind of op reads a weight: as which matrices, and what these are multiplied with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mil_palettize.torch.calibration.recurrence import recurrent_inputs
from mil_palettize.torch.calibration.taps import conv_inputs, conv_outputs, conv_transpose_inputs, kernel_layout
from mil_palettize.torch.evaluator.program import Step

RECURRENT = ("lstm", "gru", "rnn")
LOOKED_UP = ("gather", "gather_along_axis", "gather_nd")


@dataclass(frozen=True)
class Operand:
    """An input of an op: its parameter, and its position among several that have the same."""

    parameter: str
    position: int = 0

    def of(self, arguments: Mapping[str, Any]) -> Any:
        """What the op gets as this."""
        found = arguments[self.parameter]
        return found[self.position] if isinstance(found, list) else found


@dataclass(frozen=True)
class Inputs:
    """``columns``: (matrices, inputs, columns), what a weight is multiplied with; ``counted``: how many each stands
    for."""

    columns: torch.Tensor
    counted: float


def matrices(step: Step, arguments: Mapping[str, Any], operand: Operand, index: np.ndarray) -> np.ndarray | None:
    """Places of the weight's elements as the op multiplies them, int64 (matrices, rows, columns), negative for what is
    not the weight's; None for an op that multiplies nothing. ``index``: places in the shape of the operand."""
    kind = step.info.type
    if kind in ("conv", "conv_transpose"):
        return kernel_layout(index, int(arguments.get("groups") or 1), transposed=kind == "conv_transpose")
    if kind == "linear":
        return index[None]
    if kind in RECURRENT:
        gates = 3 if kind == "gru" and operand.parameter.startswith("weight_hh") else 1
        return index.reshape(gates, -1, index.shape[-1])
    if kind == "matmul":
        return _product_layout(arguments, operand.parameter, index)
    if kind == "einsum":
        found = _equation(arguments, operand)
        return None if found is None else _arranged(index, found.weight, found.batch, found.rows, found.summed)
    return None


def inputs(
    step: Step, arguments: Mapping[str, Any], operand: Operand, positions: int, random: np.random.Generator
) -> Inputs:
    """Of an op that has :func:`matrices`. ``positions``: of a convolution's output, at most, of each image."""
    kind = step.info.type
    if kind in ("conv", "conv_transpose"):
        if kind == "conv":
            columns, count = conv_inputs(arguments, positions, random)
        else:
            sizes = step.call(**arguments).shape[2:]
            columns, count = conv_transpose_inputs(arguments, positions, random, sizes)
        return Inputs(columns, count / (columns.shape[1] / arguments["x"].shape[0]))
    if kind == "linear":
        return Inputs(arguments["x"].reshape(1, -1, arguments["x"].shape[-1]), 1.0)
    if kind in RECURRENT:
        return Inputs(torch.stack(recurrent_inputs(kind, step.call, arguments, operand.parameter)), 1.0)
    if kind == "matmul":
        return Inputs(_product_inputs(arguments, operand.parameter), 1.0)
    found = _equation(arguments, operand)
    assert found is not None
    other = arguments["values"][found.other_position]
    return Inputs(_arranged(other, found.other, found.batch, found.rest, found.summed), 1.0)


def outputs_at(
    step: Step, arguments: Mapping[str, Any], tensor: torch.Tensor, positions: int, random: np.random.Generator
) -> torch.Tensor | None:
    """``tensor``, which is added to the op's output, where :func:`inputs` looks at it: (matrices, inputs, rows). None
    for other ops than ``conv`` and ``linear``, and for a tensor of another shape than the output's."""
    if step.info.type == "conv":
        return conv_outputs(arguments, tensor, positions, random)
    if step.info.type != "linear" or tuple(tensor.shape) != (*arguments["x"].shape[:-1], len(arguments["weight"])):
        return None
    return tensor.reshape(1, -1, tensor.shape[-1])


def rows_read(step: Step, arguments: Mapping[str, Any], index: np.ndarray) -> np.ndarray:
    """Places of the elements that a look-up reads, int64, repeated as often as they are read."""
    table = torch.from_numpy(index)
    own = {name: v.cpu() if isinstance(v, torch.Tensor) else v for name, v in arguments.items() if name != "x"}
    return step.call(x=table, **own).reshape(-1).numpy()


def _product_layout(arguments: Mapping[str, Any], parameter: str, index: np.ndarray) -> np.ndarray | None:
    if index.ndim < 2:
        return None
    transposed = bool(arguments.get(f"transpose_{parameter}", False))
    rows_last = transposed == (parameter == "y")  # the summed axis is the last one
    if not rows_last:
        index = index.swapaxes(-1, -2)
    return np.ascontiguousarray(index).reshape(-1, *index.shape[-2:])


def _product_inputs(arguments: Mapping[str, Any], parameter: str) -> torch.Tensor:
    name = "x" if parameter == "y" else "y"
    other, weight = arguments[name], arguments[parameter]
    transposed = bool(arguments.get(f"transpose_{name}", False)) and other.ndim > 1
    if other.ndim == 1:
        other = other[None]
    elif transposed == (name == "x"):  # the summed axis comes last
        other = other.mT
    leading = tuple(weight.shape[:-2])
    if not leading:
        return other.reshape(1, -1, other.shape[-1])
    whole = torch.broadcast_shapes(leading, tuple(other.shape[:-2]))
    spread = other.broadcast_to((*whole, *other.shape[-2:]))
    extra = len(whole) - len(leading)
    moved = spread.permute(*range(extra, len(whole)), *range(extra), len(whole), len(whole) + 1)
    repeats = moved.reshape(*whole[extra:], -1, other.shape[-1])
    if tuple(whole[extra:]) != leading:  # one matrix for several: sum over those it is spread to
        for axis, (size, own) in enumerate(zip(whole[extra:], leading, strict=True)):
            if size != own:
                repeats = repeats.movedim(axis, -3).flatten(-3, -2).unsqueeze(axis)
    return repeats.reshape(-1, *repeats.shape[-2:])


@dataclass(frozen=True)
class _Equation:
    """Letters of the two operands of an ``einsum``: those of both and the result (``batch``), of the weight and the
    result (``rows``), of the other and the result (``rest``), and of both only (``summed``)."""

    weight: str
    other: str
    other_position: int
    batch: str
    rows: str
    rest: str
    summed: str


def _equation(arguments: Mapping[str, Any], operand: Operand) -> _Equation | None:
    """None for more operands than two, ellipses, and letters that only one operand has."""
    sides = str(arguments["equation"]).replace(" ", "").split("->")
    operands = sides[0].split(",")
    own = operand.position
    if len(sides) != 2 or len(operands) != 2 or "." in sides[0]:
        return None
    weight, other, result = operands[own], operands[1 - own], sides[1]
    if len(set(weight)) < len(weight) or len(set(other)) < len(other):
        return None
    shared = [letter for letter in weight if letter in other]
    batch = "".join(letter for letter in shared if letter in result)
    summed = "".join(letter for letter in shared if letter not in result)
    rows = "".join(letter for letter in weight if letter not in other)
    rest = "".join(letter for letter in other if letter not in weight)
    if not set(rows + rest) <= set(result):
        return None
    return _Equation(weight, other, 1 - own, batch, rows, rest, summed)


def _arranged(array: Any, letters: str, batch: str, middle: str, summed: str) -> Any:
    """(batch, middle, summed), each of several letters flattened."""
    order = [letters.index(letter) for letter in batch + middle + summed]
    sizes = dict(zip(letters, array.shape, strict=True))
    shape = [int(np.prod([sizes[letter] for letter in part], dtype=np.int64)) for part in (batch, middle, summed)]
    if isinstance(array, np.ndarray):
        return np.ascontiguousarray(array.transpose(order)).reshape(shape)
    return array.permute(order).reshape(shape)
