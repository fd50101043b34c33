"""What is seen of a model's ops while it runs: results to compare, and where values stop being finite."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from mil_palettize.torch.evaluator.program import OpInfo


class Capture:
    """Hands on the results of ops, by the names of their outputs."""

    def __init__(self, handle: Callable[[OpInfo, str, torch.Tensor], None]) -> None:
        self._handle = handle

    def will_run(self, op: OpInfo, inputs: Mapping[str, Any]) -> None:
        """Inputs are results of other ops."""

    def did_run(self, op: OpInfo, outputs: Sequence[Any]) -> None:
        for name, value in zip(op.outputs, outputs, strict=True):
            if isinstance(value, torch.Tensor) and value.is_floating_point() and not op.nested:
                self._handle(op, name, value)


class FirstNonFinite:
    """Finds the ops that first give NaN, and infinity: an infinity may be a mask, and NaN what came of it."""

    def __init__(self) -> None:
        self._found: dict[str, str] = {}

    def will_run(self, op: OpInfo, inputs: Mapping[str, Any]) -> None:
        """Inputs are results of other ops, or constants."""

    def did_run(self, op: OpInfo, outputs: Sequence[Any]) -> None:
        for value in outputs:
            if isinstance(value, torch.Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
                kinds = {"infinite": value.isinf(), "NaN": value.isnan()}
                for kind in (kind for kind, where in kinds.items() if bool(where.any())):
                    self._found.setdefault(kind, f"op {op.name!r} ({op.type})")

    def told(self) -> str:
        if len(set(self._found.values())) == 1:
            return f"first at {next(iter(self._found.values()))}"
        return ", ".join(f"{kind} first at {op}" for kind, op in self._found.items())
