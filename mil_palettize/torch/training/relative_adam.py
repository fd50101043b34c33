"""Adam for tensors of any size, at learning rates that are relative to it."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch

from mil_palettize.errors import EvaluationError

Rated = tuple[torch.Tensor, float]  # and its learning rate
_WARM = 0.1  # of all steps, while the learning rate rises
_LEAST, _LEAST_OF_BIASES = 1e-8, 1e-2  # of sizes that learning rates are relative to


class RelativeAdam:
    """Learning rates, of weights and of ``biases`` each its own, are relative to the root of a tensor's mean square as
    it is at the start; they rise to these, and fall along a cosine to nothing in the last of ``steps``. ``done``: of
    these."""

    def __init__(self, weights: Iterable[Rated], biases: Iterable[Rated], steps: int) -> None:
        self.done, self._steps = 0, steps
        groups = [
            {"params": [value], "highest": rate * _size(value, least)}
            for rated, least in ((weights, _LEAST), (biases, _LEAST_OF_BIASES))
            for value, rate in rated
        ]
        self._optimizer = torch.optim.Adam(groups)

    def zero_grad(self) -> None:
        self._optimizer.zero_grad()

    def step(self) -> None:
        """Change all tensors that have gradients."""
        self.done += 1
        part = self.done / self._steps
        pace = part / _WARM if part < _WARM else 0.5 * (1 + math.cos(math.pi * (part - _WARM) / (1 - _WARM)))
        for group in self._optimizer.param_groups:
            group["lr"] = pace * group["highest"]
        self._optimizer.step()

    def state(self) -> dict[str, np.ndarray]:
        """What is known of the tensors, by their numbers; copies."""
        return {
            f"adam {number} {name}": value.numpy().copy()
            for number, values in self._optimizer.state_dict()["state"].items()
            for name, value in values.items()
        }

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Go on from what :meth:`state` gave; other names are passed over. Raises ValueError for what is none."""
        known: dict[int, dict[str, torch.Tensor]] = {}
        for name, array in state.items():
            if name.startswith("adam "):
                _, number, kind = name.split()
                known.setdefault(int(number), {})[kind] = torch.from_numpy(np.array(array))
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": known})


def finite(loss: float) -> float:
    """``loss``. Raises EvaluationError where it is no number."""
    if not math.isfinite(loss):
        raise EvaluationError(f"the loss is {loss}; lower the learning rate, or look for samples that are no numbers")
    return loss


def _size(value: torch.Tensor, least: float) -> float:
    return max(float(value.detach().square().mean().sqrt()), least)
