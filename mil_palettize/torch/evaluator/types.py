"""MIL types as torch's, and inputs of them."""

from __future__ import annotations

from typing import Any

import torch

from mil_palettize.errors import EvaluationError
from mil_palettize.program.values import MIL, type_name
from mil_palettize.torch.evaluator.ops.registry import DTYPES
from mil_palettize.torch.features import check_integers, plain_array


def tensor_dtype(kind: MIL.ValueType) -> torch.dtype:
    """What tensors of a type are computed as."""
    return DTYPES.get(type_name(kind.tensorType.dataType), torch.float32)


def tensor_shape(kind: MIL.ValueType, unknown: int = 1) -> tuple[int, ...]:
    """The sizes of a tensor type, ``unknown`` for those that are not constants."""
    dimensions = kind.tensorType.dimensions
    return tuple(d.constant.size if d.WhichOneof("dimension") == "constant" else unknown for d in dimensions)


def is_half(kind: MIL.ValueType) -> bool:
    """Whether a value is a tensor declared float16."""
    return kind.WhichOneof("type") == "tensorType" and type_name(kind.tensorType.dataType) == "fp16"


def as_declared(name: str, value: Any, kind: MIL.ValueType) -> Any:
    """An input of the declared type; its shape must fit the sizes that are known."""
    if kind.WhichOneof("type") != "tensorType":
        return value
    tensor = value if isinstance(value, torch.Tensor) else torch.as_tensor(plain_array(name, value))
    wanted = [d.constant.size if d.WhichOneof("dimension") == "constant" else None for d in kind.tensorType.dimensions]
    fits = kind.tensorType.rank == -1 or (
        tensor.ndim == len(wanted)
        and all(size is None or size == found for size, found in zip(wanted, tensor.shape, strict=True))
    )
    if not fits:
        told = ["?" if size is None else size for size in wanted]
        raise EvaluationError(f"input {name!r} has shape {list(tensor.shape)}; the model takes {told}")
    dtype = tensor_dtype(kind)
    converted = tensor.to(dtype)
    if not dtype.is_floating_point:
        check_integers(name, tensor, converted, type_name(kind.tensorType.dataType))
    return converted
