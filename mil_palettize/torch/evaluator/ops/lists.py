"""Lists of tensors, as loops collect their results in. A list is never changed: an op that writes makes a new one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from mil_palettize.torch.evaluator.memory import claim, claim_bytes
from mil_palettize.torch.evaluator.ops.registry import DTYPES, Flag, Int, Ints, Tensor, Text, op

_REFERENCE = 8  # bytes that an element takes which nobody wrote


@dataclass(frozen=True)
class TensorList:
    """``elements``: None where nothing was written yet; reading that gives zeros of ``shape`` (0 for a size that is not
    known) and ``dtype``. ``grows``: writing past the end makes the list longer."""

    elements: tuple[Tensor | None, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    grows: bool

    def element(self, index: int) -> Tensor:
        found = self.elements[index]
        if found is not None:
            return found
        claim(self._shape(), self.dtype)
        return torch.zeros(self._shape(), dtype=self.dtype)

    def _shape(self) -> tuple[int, ...]:
        written = (tuple(element.shape) for element in self.elements if element is not None)
        return next(written, self.shape)

    def written(self, index: int, value: Tensor) -> TensorList:
        size = len(self.elements)
        if index >= size and not self.grows:
            raise IndexError(f"index {index} of a list of {size} elements")
        claim_bytes((index + 1) * _REFERENCE)
        elements = [*self.elements, *[None] * (index + 1 - size)]
        elements[index] = value
        return replace(self, elements=tuple(elements))


@op("make_list")
def make_list(elem_shape: Any, init_length: Int = 1, dynamic_length: Flag = True, dtype: Text = "fp32") -> TensorList:
    """``elem_shape`` comes as its sizes one by one; a symbolic one, given by name, counts as not known."""
    sizes = elem_shape if isinstance(elem_shape, list) else [elem_shape]
    flat = [item for size in sizes for item in (size.reshape(-1).tolist() if isinstance(size, Tensor) else [size])]
    shape = tuple(item if isinstance(item, int) else 0 for item in flat)
    claim_bytes(init_length * _REFERENCE)
    return TensorList((None,) * init_length, shape, DTYPES[dtype], dynamic_length)


@op("list_length")
def list_length(ls: Any) -> Tensor:
    return torch.tensor(len(ls.elements), dtype=torch.int32)


@op("list_write")
def list_write(ls: Any, index: Int, value: Tensor) -> TensorList:
    return ls.written(index, value)


@op("list_read")
def list_read(ls: Any, index: Int) -> Tensor:
    return ls.element(index)


@op("list_gather")
def list_gather(ls: Any, indices: Ints) -> Tensor:
    elements = [ls.element(index) for index in indices]
    claim((len(elements), *elements[0].shape), elements[0].dtype)
    return torch.stack(elements)


@op("list_scatter")
def list_scatter(ls: Any, indices: Ints, value: Tensor) -> TensorList:
    for index, element in zip(indices, value, strict=True):
        ls = ls.written(index, element)
    return ls
