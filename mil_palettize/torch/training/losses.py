"""How far what a network gives is from what it gave before it was palettized."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from mil_palettize.errors import ConfigError, EvaluationError

Outputs = Mapping[str, Any]
_LEAST = 1e-9


def distance(found: Outputs, wanted: Outputs, label: int | None, temperature: float) -> torch.Tensor:
    """Of one sample's outputs by name: a number with gradients.

    The mean over all outputs of floats of the squared error by the output's power. To one output that is a row of
    scores or of probabilities, as answers of a classifier are, their divergence at ``temperature`` is added, and with
    ``label`` their cross entropy. Raises ConfigError for a label without classes, EvaluationError without floats.
    """
    floats = {name: out for name, out in wanted.items() if isinstance(out, torch.Tensor) and out.is_floating_point()}
    if not floats:
        raise EvaluationError("the network has no output of floats, so that nothing can be learned from its answers")
    error = torch.stack([_relative(found[name], out) for name, out in floats.items()]).mean()
    if len(floats) == 1 and _is_row(next(iter(floats.values()))):
        ((name, out),) = floats.items()
        rows = found[name].double().reshape(-1), out.double().reshape(-1)
        return error + _divergence(*rows, label, temperature)
    if label is not None:
        raise ConfigError("labels need a network with one output of classes; leave them out")
    return error


def _is_row(out: torch.Tensor) -> bool:
    return out.numel() == out.shape[-1] > 1 if out.ndim else False


def _divergence(found: torch.Tensor, wanted: torch.Tensor, label: int | None, temperature: float) -> torch.Tensor:
    scores = _scores(wanted)
    logs = scores(found)
    soft, target = (torch.log_softmax(x / temperature, 0) for x in (logs, scores(wanted)))
    loss = (target.exp() * (target - soft)).sum() * temperature**2
    if label is None:
        return loss
    if not 0 <= label < len(logs):
        raise ConfigError(f"label {label} is none of the {len(logs)} classes of the output")
    return loss - torch.log_softmax(logs, 0)[label]


def _scores(wanted: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Outputs as logarithms, up to a constant: probabilities are not, scores are."""
    normal = bool((wanted >= 0).all()) and abs(float(wanted.sum()) - 1.0) < 1e-2
    return (lambda x: x.clamp_min(_LEAST).log()) if normal else (lambda x: x)


def _relative(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    finite = torch.isfinite(wanted)
    wanted, found = wanted[finite], found[finite]
    return (found.double() - wanted.double()).square().sum() / wanted.double().square().sum().clamp_min(_LEAST)
