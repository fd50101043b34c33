"""Fisher information of weights: how much the answers of a network change with each of their elements."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mil_palettize.errors import ConfigError, EvaluationError
from mil_palettize.reports.counting import Count, untold
from mil_palettize.torch.evaluator.module import MILModule
from mil_palettize.torch.evaluator.program import OpInfo
from mil_palettize.torch.python_files import told

# Of one sample: its outputs by name, and its number, to one number.
Loss = Callable[[Mapping[str, torch.Tensor], int], torch.Tensor]


def fisher(
    module: MILModule,
    samples: Sequence[Mapping[str, Any]],
    *,
    labels: Sequence[int] | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    count: Count = untold,
) -> dict[str, np.ndarray]:
    """The mean over the samples of the squared gradient of each element, float64 of the weight's shape, by the name of
    the constant; zeros where nothing depends on it.

    The loss of a sample is ``loss``, or the cross entropy of its ``labels``; without either that of labels drawn from
    the network's own answer where it has one output of classes, a row of numbers (arXiv 1412.1193), and for any other
    network the product of its outputs with random signs, of which the mean square is that of all outputs together.

    A classifier's answer is that of its probabilities. ``count``: told of each sample.

    Raises ConfigError for labels that are no classes of the network, EvaluationError for labels of another number and
    for a loss that is no finite number, or depends on no weight in any sample.
    """
    if labels is not None and len(labels) != len(samples):
        raise EvaluationError(f"{len(labels)} labels for {len(samples)} samples; give one for each")
    weights = module.weights
    sums = {name: torch.zeros(weight.shape, dtype=torch.float64) for name, weight in weights.items()}
    random, depends = torch.Generator().manual_seed(seed), False
    for number, sample in enumerate(samples):
        count("samples", number, len(samples))
        with torch.enable_grad():
            floats = _floats(module, sample)
            if loss is not None:
                value = _called(loss, floats, number)
            else:
                value = _own_loss(floats, None if labels is None else int(labels[number]), random)
            _check(value, number)
            if not value.requires_grad:
                continue
            depends = True
            found = torch.autograd.grad(value, list(weights.values()), allow_unused=True)
        for total, gradient in zip(sums.values(), found, strict=True):
            if gradient is not None:
                total += gradient.double().square()
    count("samples", len(samples), len(samples))
    if loss is not None and not depends:
        raise EvaluationError(
            "the loss depends on no weight in any sample; compute it from the outputs as the tensors they are"
        )
    return {name: (total / max(1, len(samples))).numpy() for name, total in sums.items()}


def gives_floats(module: MILModule, sample: Mapping[str, Any]) -> bool:
    """Whether the network has an output that changes with its weights little by little."""
    with torch.no_grad():
        return bool(_floats(module, sample))


class _Probabilities:
    """Hears what a classifier makes its answer of, which is no tensor."""

    def __init__(self) -> None:
        self.found: torch.Tensor | None = None

    def will_run(self, op: OpInfo, inputs: Mapping[str, Any]) -> None:
        if op.type == "classify":
            self.found = inputs["probabilities"]

    def did_run(self, op: OpInfo, outputs: Sequence[Any]) -> None:
        """Its outputs are a label and a dictionary."""


def _floats(module: MILModule, sample: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Outputs of a sample that gradients flow through, by name."""
    listener = _Probabilities()
    with module.listening(listener):
        outputs = module.run(module.features.tensors(sample))
    answer = None if listener.found is None else listener.found.reshape(-1)
    tensors = {name: answer if isinstance(out, dict) else out for name, out in outputs.items()}
    return {n: o for n, o in tensors.items() if isinstance(o, torch.Tensor) and o.is_floating_point()}


def _called(loss: Loss, outputs: Mapping[str, torch.Tensor], number: int) -> torch.Tensor:
    try:
        return loss(outputs, number)
    except (Exception, SystemExit) as error:
        raise EvaluationError(f"the loss of sample {number} fails: {told(error)}") from error


def _check(value: object, number: int) -> None:
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        raise EvaluationError(f"the loss of sample {number} is no number; give a tensor of one element")
    found = float(value.detach())
    if not math.isfinite(found):
        raise EvaluationError(f"the loss of sample {number} is {found}")


def _own_loss(outputs: Mapping[str, torch.Tensor], label: int | None, random: torch.Generator) -> torch.Tensor:
    first = next(iter(outputs.values()), None)
    if first is None:
        raise EvaluationError("the network has no output of floats; give a loss")
    if len(outputs) == 1 and first.numel() == first.shape[-1] > 1:
        scores = first.reshape(-1)
        normal = bool((scores >= 0).all()) and abs(float(scores.detach().sum()) - 1.0) < 1e-2
        logs = (scores + 1e-9).log() if normal else torch.log_softmax(scores, 0)
        if label is None and not bool(torch.isfinite(logs).all()):
            raise EvaluationError("an answer of the network is not finite, so that no label can be drawn from it")
        if label is None:
            label = int(torch.multinomial(logs.detach().exp(), 1, generator=random))
        if not 0 <= label < len(logs):
            raise ConfigError(f"label {label} is none of the {len(logs)} classes of the output")
        return -logs[label]
    if label is not None:
        raise ConfigError("labels need a network with one output of classes; give a loss instead")
    signs = (torch.randint(0, 2, out.shape, generator=random) * 2.0 - 1.0 for out in outputs.values())
    return torch.stack([(out * sign).sum() for out, sign in zip(outputs.values(), signs, strict=True)]).sum()
