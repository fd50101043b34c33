"""Ops by name, and how their parameters are bound: the annotation of a parameter says what the function gets.

``Tensor``, ``Tensors`` (several bindings), or a Python value, of a constant as well as of a tensor that is computed:
``Ints``, ``Int``, ``Flag``, ``Number``, ``Text``. ``Weight``: a tensor that may also be of float16, as large constants
are kept, which the op widens piece by piece. ``Any``: whatever is there (lists, states). ``Blocks``: the op's nested
blocks as functions. Optional parameters have defaults, those of the op's documentation (coremltools ``mil/ops/defs``).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

Tensor = torch.Tensor
Weight = torch.Tensor
Tensors = Sequence[torch.Tensor]
Ints = Sequence[int]
Int = int
Flag = bool
Number = float
Text = str
Blocks = Sequence[Callable[..., "list[Any]"]]
Function = TypeVar("Function", bound=Callable[..., Any])

# MIL's names of types, as ``cast`` and others take them: float16 is computed as float32 (see ``execution``), and
# unsigned types torch hardly knows as the next larger signed one.
DTYPES: dict[str, torch.dtype] = {
    "fp16": torch.float32, "fp32": torch.float32, "fp64": torch.float64, "bool": torch.bool,
    "int8": torch.int8, "int16": torch.int16, "int32": torch.int32, "int64": torch.int64,
    "uint8": torch.uint8, "uint16": torch.int32, "uint32": torch.int64, "uint64": torch.int64,
}  # fmt: skip


@dataclass(frozen=True)
class Parameter:
    """``kind``: the annotation, one of the names that the module's docstring lists."""

    kind: str
    required: bool


@dataclass(frozen=True)
class Op:
    """``function``: from bound parameters to one output, or a tuple of them."""

    name: str
    function: Callable[..., Any]
    parameters: dict[str, Parameter]


OPS: dict[str, Op] = {}


def op(*names: str) -> Callable[[Function], Function]:
    """Register a function for the ops of these names."""

    def register(function: Function) -> Function:
        parameters = {
            name: Parameter(
                str(parameter.annotation).removesuffix(" | None"), parameter.default is inspect.Parameter.empty
            )
            for name, parameter in inspect.signature(function).parameters.items()
        }
        unknown = {parameter.kind for parameter in parameters.values()} - KINDS
        assert not unknown, f"{function.__name__}: {unknown}"
        for name in names:
            assert name not in OPS, name
            OPS[name] = Op(name, function, parameters)
        return function

    return register


def to_tensor(array: np.ndarray) -> Any:
    """A constant as ops get it; strings as they are."""
    if array.dtype == object:
        return array[()] if array.ndim == 0 else array.tolist()
    wide = {"float16": np.float32, "uint16": np.int32, "uint32": np.int64, "uint64": np.int64}.get(array.dtype.name)
    return torch.from_numpy(np.array(array, dtype=wide or array.dtype.newbyteorder("=")))  # a copy that can be written


def _flat(value: Any) -> list[Any]:
    if isinstance(value, torch.Tensor | np.ndarray):
        return value.reshape(-1).tolist()
    return list(value) if isinstance(value, list | tuple) else [value]


def _text(value: Any) -> str:
    found = _flat(value)[0]
    return found.decode() if isinstance(found, bytes) else str(found)


# Kind -> from a tensor, an array or a Python value to the Python value it stands for.
PLAIN: dict[str, Callable[[Any], Any]] = {
    "Ints": lambda value: [int(item) for item in _flat(value)],
    "Int": lambda value: int(_flat(value)[0]),
    "Flag": lambda value: bool(_flat(value)[0]),
    "Number": lambda value: _flat(value)[0],
    "Text": _text,
}
KINDS = frozenset({*PLAIN, "Tensor", "Weight", "Tensors", "Any", "Blocks"})
