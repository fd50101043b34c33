"""Constants that are decoded when an op reads them, of which no more are kept than memory is given for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mil_palettize.torch.evaluator.ops.registry import to_tensor
from mil_palettize.torch.evaluator.program import Constant


class ConstantStore:
    """By slot. ``limit``: bytes that are kept, as stored in the program: those that are read first, since every run
    reads all in the same order, and dropping the oldest would drop each before it is read again."""

    def __init__(self, constants: Mapping[str, Constant], limit: int) -> None:
        self._constants = constants
        self._left = limit
        self._kept: dict[str, np.ndarray] = {}

    def __contains__(self, slot: str) -> bool:
        return slot in self._constants

    def __getitem__(self, slot: str) -> Any:
        """As ops take it."""
        array = self._kept.get(slot)
        if array is None:
            array = self._constants[slot].decode()
            if array.nbytes <= self._left:
                self._kept[slot] = array
                self._left -= array.nbytes
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
