"""MIL types as torch's."""

from __future__ import annotations

import torch

from mil_palettize.program.values import MIL, type_name
from mil_palettize.torch.evaluator.ops.registry import DTYPES


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
