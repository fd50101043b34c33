"""Constants that are decoded when an op reads them, of which no more are kept than memory is given for."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from mil_palettize.torch.evaluator.memory import claim_bytes
from mil_palettize.torch.evaluator.ops.registry import to_tensor
from mil_palettize.torch.evaluator.program import Constant

EVERYTHING = sys.maxsize  # a limit that keeps all
_SMALL = 1 << 16  # elements that are kept as ops take them; above, float16 stays what it is


class ConstantStore:
    """By slot. ``limit``: bytes that are kept: those that are read first, since every run reads all in the same order,
    and dropping the oldest would drop each before it is read again."""

    def __init__(self, constants: Mapping[str, Constant], limit: int) -> None:
        self._constants = constants
        self._left = limit
        self._kept: dict[str, Any] = {}

    def claim(self) -> None:
        """What is to be kept, before the first is read. Raises MemoryError where it would take too much."""
        if not self._kept:
            claim_bytes(min(self._left, sum(constant.nbytes for constant in self._constants.values())))

    def __contains__(self, slot: str) -> bool:
        return slot in self._constants

    def __getitem__(self, slot: str) -> Any:
        """As ops take it."""
        value = self.as_kept(slot)
        return value.float() if isinstance(value, torch.Tensor) and value.dtype == torch.float16 else value

    def as_kept(self, slot: str) -> Any:
        """As ops take a ``Weight``."""
        if slot in self._kept:
            return self._kept[slot]
        value = _compact(self._constants[slot].decode())
        nbytes = value.nbytes if isinstance(value, torch.Tensor) else 0
        if nbytes <= self._left:
            self._kept[slot] = value
            self._left -= nbytes
        return value


def _compact(array: np.ndarray) -> Any:
    """A constant as it is kept."""
    if array.dtype == np.float16 and array.size > _SMALL:
        return torch.from_numpy(np.require(array, requirements=["C", "W"]))
    return to_tensor(array)


class LazyValues(dict[str, Any]):
    """Values of a run by slot, and constants, which are not put into it."""

    def __init__(self, values: Mapping[str, Any], constants: ConstantStore) -> None:
        super().__init__(values)
        self._constants = constants

    def __missing__(self, slot: str) -> Any:
        if slot not in self._constants:
            raise KeyError(slot)
        return self._constants[slot]

    def as_kept(self, slot: str) -> Any:
        """As of :class:`ConstantStore`; what is no constant, as it is."""
        return self[slot] if slot in self or slot not in self._constants else self._constants.as_kept(slot)
