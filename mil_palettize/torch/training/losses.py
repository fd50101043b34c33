"""How far what a network gives is from what it gave before it was palettized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from mil_palettize.errors import ConfigError, EvaluationError

Outputs = Mapping[str, torch.Tensor]
_LEAST = 1e-9


@dataclass(frozen=True)
class Distance:
    """Of the outputs ``names``, which are of floats: the mean over them of the squared error by the output's power. To
    one output that is a row of scores or of ``probabilities``, as answers of a classifier are, their divergence at
    ``temperature`` is added, and with labels their cross entropy."""

    names: tuple[str, ...]
    classes: bool
    probabilities: bool
    temperature: float

    @classmethod
    def of(cls, wanted: Sequence[Outputs], temperature: float) -> Distance:
        """For what the samples have to give. Raises EvaluationError without floats."""
        first = wanted[0]
        names = tuple(n for n, out in first.items() if isinstance(out, torch.Tensor) and out.is_floating_point())
        if not names:
            raise EvaluationError("the network has no output of floats, so that nothing can be learned from it")
        classes = len(names) == 1 and all(_is_row(one[names[0]]) for one in wanted)
        normal = classes and all(_is_normal(one[names[0]]) for one in wanted)
        return cls(names, classes, normal, temperature)

    def check_labels(self, labels: Sequence[int], wanted: Outputs) -> None:
        """Raise ConfigError for labels that the network has no classes for."""
        if not self.classes:
            raise ConfigError("labels need a network with one output of classes; leave them out")
        count = wanted[self.names[0]].numel()
        for number, label in enumerate(labels):
            if not 0 <= label < count:
                raise ConfigError(f"label {number} is {label}, which is none of the {count} classes of the output")

    def __call__(
        self, found: Sequence[Outputs], wanted: Sequence[Outputs], labels: Sequence[int] | None
    ) -> torch.Tensor:
        """The mean over samples, with gradients."""
        if len(found) > 1 and not all(_same_shapes(one, found[0], self.names) for one in found):
            single = [self([one], [two], None if labels is None else [labels[n]])
                      for n, (one, two) in enumerate(zip(found, wanted, strict=True))]  # fmt: skip
            return torch.stack(single).mean()
        sides = [{n: torch.stack([one[n].reshape(-1) for one in some]).double() for n in self.names}
                 for some in (found, wanted)]  # fmt: skip
        error = torch.stack([_relative(sides[0][name], sides[1][name]) for name in self.names]).mean()
        if not self.classes:
            return error
        return error + self._divergence(sides[0][self.names[0]], sides[1][self.names[0]], labels)

    def _divergence(self, found: torch.Tensor, wanted: torch.Tensor, labels: Sequence[int] | None) -> torch.Tensor:
        if self.probabilities:  # logarithms of these are scores
            found, wanted = (x.clamp_min(_LEAST).log() for x in (found, wanted))
        soft, target = (torch.log_softmax(x / self.temperature, 1) for x in (found, wanted))
        loss = (target.exp() * (target - soft)).sum(1).mean() * self.temperature**2
        if labels is None:
            return loss
        return loss + torch.nn.functional.cross_entropy(found, torch.tensor(labels))


def _same_shapes(one: Outputs, two: Outputs, names: Sequence[str]) -> bool:
    return all(one[name].shape == two[name].shape for name in names)


def _is_row(out: torch.Tensor) -> bool:
    return out.numel() == out.shape[-1] > 1 if out.ndim else False


def _is_normal(out: torch.Tensor) -> bool:
    return bool((out >= 0).all()) and abs(float(out.sum()) - 1.0) < 1e-2


def _relative(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Rows are samples; what is not finite in the network is left out."""
    finite = torch.isfinite(wanted)
    found, wanted = torch.where(finite, found, 0.0), torch.where(finite, wanted, 0.0)
    return ((found - wanted).square().sum(1) / wanted.square().sum(1).clamp_min(_LEAST)).mean()
