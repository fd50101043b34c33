"""What a torch module multiplies one of its weights with, told by the operators that torch calls for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mil_palettize.torch.calibration.readers import Inputs
from mil_palettize.torch.calibration.taps import conv_inputs, conv_transpose_inputs, kernel_layout

_ATEN = torch.ops.aten


@dataclass(frozen=True, eq=False)
class WeightRead:
    """An operator that reads a weight, or a part of it. ``index``: int64 of the operand's shape, places in the weight
    in C order; ``x``: the other operand; ``arguments``: as the MIL op of the same kind has them, None for a look-up
    and for a product; ``sizes``: of a convolution's output."""

    index: np.ndarray
    x: torch.Tensor
    arguments: Mapping[str, Any] | None = None
    transposed: bool = False
    sizes: tuple[int, ...] = ()

    @property
    def looks_up(self) -> bool:
        return not self.x.is_floating_point()

    @property
    def where(self) -> np.ndarray:
        """Places as matrices: int64 (matrices, rows, columns)."""
        if self.arguments is None:
            return self.index.T[None]
        return kernel_layout(self.index, self.arguments["groups"], transposed=self.transposed)

    def inputs(self, positions: int, random: np.random.Generator) -> Inputs:
        """What the matrices are multiplied with. ``positions``: of a convolution's output, at most, of each image."""
        if self.arguments is None:
            return Inputs(self.x[None], 1.0)
        if self.transposed:
            columns, count = conv_transpose_inputs(self.arguments, positions, random, self.sizes)
        else:
            columns, count = conv_inputs(self.arguments, positions, random)
        return Inputs(columns, count / (columns.shape[1] / self.x.shape[0]))

    def counts(self, size: int) -> np.ndarray:
        """How often a look-up reads each of ``size`` elements: int64."""
        rows = self.index[self.x.cpu().numpy().reshape(-1)]
        return np.bincount(rows.reshape(-1), minlength=size)


@contextmanager
def reads_of(weight: torch.Tensor) -> Iterator[list[WeightRead]]:
    """A list that gets the reads of ``weight`` inside the block, in their order: by convolutions, linear layers and
    embeddings. Others are not seen, nor those of a copy, such as autocast makes."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one operator for all of attention, which tells nothing
    listener = _Listener(weight)
    try:
        with listener:
            yield listener.found
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class _Listener(TorchDispatchMode):
    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.found: list[WeightRead] = []
        self._weight = weight.detach()
        span = 1 + sum((size - 1) * stride for size, stride in zip(weight.shape, weight.stride(), strict=True))
        self._places = torch.full((span,), -1, dtype=torch.int64)  # in the order of memory
        whole = torch.arange(prod(weight.shape)).reshape(weight.shape)
        self._places.as_strided(weight.shape, weight.stride()).copy_(whole)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        position = {_ATEN.convolution.default: 1, _ATEN.mm.default: 1, _ATEN.addmm.default: 2}.get(
            func, 0 if func is _ATEN.embedding.default else None
        )
        if position is not None:
            index = self._index(args[position])
            if index is not None:
                self.found.append(_read(func, index, args, result))
        return result

    def _index(self, operand: torch.Tensor) -> np.ndarray | None:
        """Places of an operand's elements; None where it is no view of the weight."""
        weight = self._weight
        if operand.untyped_storage().data_ptr() != weight.untyped_storage().data_ptr():
            return None
        start = operand.storage_offset() - weight.storage_offset()
        end = start + sum((n - 1) * step for n, step in zip(operand.shape, operand.stride(), strict=True))
        if start < 0 or end >= len(self._places):
            return None
        return self._places.as_strided(operand.shape, operand.stride(), start).numpy()


def _read(func: Any, index: np.ndarray, args: Any, result: torch.Tensor) -> WeightRead:
    if func is _ATEN.convolution.default:
        x, _, _, strides, padding, dilations, transposed, _, groups = args
        pad = [amount for amount in padding for _ in range(2)]
        arguments = {
            "x": x, "weight": index, "strides": strides, "pad_type": "custom", "pad": pad, "dilations": dilations,
            "groups": groups,
        }  # fmt: skip
        return WeightRead(index, x, arguments, transposed, tuple(result.shape[2:]))
    return WeightRead(index, args[{_ATEN.mm.default: 0, _ATEN.addmm.default: 1}.get(func, 1)])
