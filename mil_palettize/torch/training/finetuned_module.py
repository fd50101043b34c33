"""Palettes and biases of a package's program, trained to give what the float program gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.encoding.palette_cache import Clustered
from mil_palettize.errors import EvaluationError
from mil_palettize.expressions.weight_expr import WeightExpr
from mil_palettize.torch.evaluator.module import MILModule
from mil_palettize.torch.training.losses import distance
from mil_palettize.torch.training.palettized_weight import PalettizedWeight
from mil_palettize.torch.training.settings import WeightSettings
from mil_palettize.torch.training.soft_kmeans import Softness
from mil_palettize.torch.training.trained_palette import TrainedPalette

_HARD = Softness(1.0, iterations=1, hard=True)
_WARM = 0.1  # of all steps, while the learning rate rises
_LEAST, _LEAST_OF_BIASES = 1e-8, 1e-2  # of sizes that learning rates are relative to
_JUDGED = 256  # samples
Sample = Mapping[str, Any]
State = dict[str, np.ndarray]
Tell = Callable[[int, int, str], object]


@dataclass(frozen=True)
class Schedule:
    """As in ``Finetuning``. ``held``: numbers of samples that are not learned from."""

    epochs: int
    batch: int
    learning_rate: float
    temperature: float
    seed: int
    held: frozenset[int]
    labels: Sequence[int] | None = None


@dataclass(frozen=True)
class Finetuned:
    """``expressions`` and ``biases`` by slot, both empty where no epoch was better than the start; ``losses``: on what
    was held out (on all samples where nothing was), at the start and after each epoch; ``best``: the number of the
    epoch that was kept, 0 for the start."""

    expressions: Mapping[str, WeightExpr]
    biases: Mapping[str, np.ndarray]
    losses: Sequence[float]
    best: int


def finetuned(
    module: MILModule,
    samples: Sequence[Sample],
    palettes: Mapping[str, tuple[PaletteSpecification, WeightExpr]],
    fixed: Mapping[str, np.ndarray],
    biases: Sequence[str],
    schedule: Schedule,
    tell: Tell | None = None,
    checkpoints: Checkpoints | None = None,
) -> Finetuned:
    """Train ``palettes`` (by slot, from what they are) and the ``biases`` in these slots, with arrays ``fixed`` in
    others. ``samples``: tensors as :meth:`MILModule.run` takes them. The module's own values are trained, and are no
    good afterwards. ``tell``: steps done, of how many, and what the loss is. ``checkpoints``: where each epoch is kept,
    and found by a later run, which goes on with the next one.

    Raises EvaluationError where a loss is no number, and for a network without outputs of floats.
    """
    with torch.no_grad():
        wanted = [module.run(sample) for sample in samples]
        for slot, array in fixed.items():
            module.weights[slot].copy_(torch.from_numpy(np.array(array, np.float32)))
    learned = [number for number in range(len(samples)) if number not in schedule.held]
    steps = schedule.epochs * -(-len(learned) // schedule.batch)
    training = _Training(module, palettes, biases, schedule, steps)
    judged = (sorted(schedule.held) or learned)[:_JUDGED]

    def judge() -> float:
        training.harden()
        with torch.no_grad():
            losses = [float(training.loss(samples[i], wanted[i], i)) for i in judged]
        return _checked(sum(losses) / len(losses))

    losses, best = [judge()], training.state()
    found = None if checkpoints is None else checkpoints.found(training)
    if found is not None:
        losses, best = found
    order = np.random.default_rng(schedule.seed)
    for epoch in range(schedule.epochs):
        mixed = order.permutation(learned)
        if epoch < len(losses) - 1:
            continue
        for start in range(0, len(mixed), schedule.batch):
            chosen = [int(number) for number in mixed[start : start + schedule.batch]]
            loss = training.step([(samples[i], wanted[i], i) for i in chosen])
            if tell is not None:
                told = f"epoch {epoch + 1} of {schedule.epochs}, loss {loss:.4g} (held out {losses[-1]:.4g})"
                tell(training.done, steps, told)
        losses.append(judge())
        if losses[-1] == min(losses):
            best = training.state()
        if checkpoints is not None:
            checkpoints.keep(training, losses, best)
    number = int(np.argmin(losses))
    if number == 0:
        return Finetuned({}, {}, losses, 0)
    training.restore(best)
    return Finetuned(training.expressions(), training.biases(), losses, number)


@dataclass(frozen=True)
class Checkpoints:
    """What training came to after each epoch, in the folder of ``resume``. ``key``: a digest of all it depends on."""

    clustered: Clustered
    key: str

    def found(self, training: _Training) -> tuple[list[float], State] | None:
        """Losses so far and the best state; ``training`` goes on where it was. None where nothing is kept."""

        def built(header: dict[str, Any], arrays: State) -> tuple[list[float], State]:
            losses = [float(loss) for loss in header["losses"]]
            best = {name: arrays[f"best {name}"] for name in training.state()}
            training.resume({name: array for name, array in arrays.items() if not name.startswith("best ")})
            training.done = int(header["done"])
            return losses, best

        return self.clustered.state(self.key, "fine tuning", built)

    def keep(self, training: _Training, losses: Sequence[float], best: State) -> None:
        """In the place of the epoch before. Raises PackageError where the folder cannot be written to."""
        arrays = {**training.progress(), **{f"best {name}": array for name, array in best.items()}}
        self.clustered.keep_state(self.key, {"losses": list(losses), "done": training.done}, arrays)


class _Training:
    """Float masters of palettes, which the module sees palettized, and its biases."""

    def __init__(
        self,
        module: MILModule,
        palettes: Mapping[str, tuple[PaletteSpecification, WeightExpr]],
        biases: Sequence[str],
        schedule: Schedule,
        steps: int,
    ) -> None:
        self.module, self.schedule, self.steps, self.done = module, schedule, steps, 0
        self._palettized: dict[str, PalettizedWeight] = {}
        self._masters: dict[str, nn.Parameter] = {}
        self._dtypes = {slot: expr.dtype for slot, (_, expr) in palettes.items()}
        for slot, (specification, expr) in palettes.items():
            palette = TrainedPalette.of_expression(_settings(specification), expr)
            master = nn.Parameter(palette.values)
            palettized = PalettizedWeight(slot, master, palette.settings)
            palettized.begin_from(palette)
            self._palettized[slot], self._masters[slot] = palettized, master
        weights = module.weights
        self._seen = {slot: weights[slot] for slot in palettes}
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        self._biases = {slot: module.trainable(slot) for slot in biases}
        groups = [
            *({"params": [value], "size": _size(value)} for value in self._masters.values()),
            *({"params": [value], "size": max(_size(value), _LEAST_OF_BIASES)} for value in self._biases.values()),
        ]
        self._optimizer = torch.optim.Adam(groups)

    def step(self, batch: Sequence[tuple[Sample, Mapping[str, Any], int]]) -> float:
        """One of ``steps``: samples with what they should give, and their numbers. The mean loss before it."""
        made = {slot: self._palettized[slot].train()(master) for slot, master in self._masters.items()}
        for slot, value in made.items():
            self._seen[slot].data = value.detach()
            self._seen[slot].requires_grad_(True).grad = None
        self._optimizer.zero_grad()
        mean = 0.0
        for sample, wanted, number in batch:
            loss = self.loss(sample, wanted, number) / len(batch)
            mean += _checked(float(loss.detach()))
            loss.backward()
        reached = [slot for slot in made if self._seen[slot].grad is not None]
        torch.autograd.backward([made[slot] for slot in reached], [self._seen[slot].grad for slot in reached])
        self.done += 1
        for group in self._optimizer.param_groups:
            group["lr"] = self.schedule.learning_rate * group["size"] * self._pace
        self._optimizer.step()
        return mean

    @property
    def _pace(self) -> float:
        """Of the highest learning rate: up, then down along a cosine."""
        part = self.done / self.steps
        return part / _WARM if part < _WARM else 0.5 * (1 + math.cos(math.pi * (part - _WARM) / (1 - _WARM)))

    def loss(self, sample: Sample, wanted: Mapping[str, Any], number: int) -> torch.Tensor:
        labels = self.schedule.labels
        label = None if labels is None else int(labels[number])
        return distance(self.module.run(sample), wanted, label, self.schedule.temperature)

    def harden(self) -> None:
        """The module has palettes as they would be stored."""
        for slot, palette in self._palettes():
            self._seen[slot].data = palette.values

    def state(self) -> State:
        """Copies of what is trained."""
        return {name: value.detach().numpy().copy() for name, value in self._trained().items()}

    def restore(self, state: State) -> None:
        """Go back to one of :meth:`state`."""
        for name, value in self._trained().items():
            value.data.copy_(torch.from_numpy(np.array(state[name])))

    def progress(self) -> State:
        """:meth:`state`, and what the optimizer knows of it."""
        known = {
            f"adam {number} {name}": value.numpy().copy()
            for number, values in self._optimizer.state_dict()["state"].items()
            for name, value in values.items()
        }
        return {**self.state(), **known}

    def resume(self, progress: State) -> None:
        """Go on from what :meth:`progress` gave. Raises KeyError, and ValueError, for what is none, before a change."""
        known: dict[int, dict[str, torch.Tensor]] = {}
        for name, array in progress.items():
            if name.startswith("adam "):
                _, number, kind = name.split()
                known.setdefault(int(number), {})[kind] = torch.from_numpy(np.array(array))
        for name, value in self._trained().items():
            if progress[name].shape != tuple(value.shape):
                raise ValueError(f"{name} has another shape")
        self.restore(progress)
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": known})

    def expressions(self) -> dict[str, WeightExpr]:
        """Palettes as they are stored, by slot."""
        return {slot: palette.expression(self._dtypes[slot]) for slot, palette in self._palettes()}

    def biases(self) -> dict[str, np.ndarray]:
        """float32, by slot."""
        return {slot: value.detach().numpy().copy() for slot, value in self._biases.items()}

    def _trained(self) -> dict[str, torch.Tensor]:
        """By kind and number: slots may be called anything."""
        parts = {
            "master": self._masters.values(),
            "tables": [one.tables for one in self._palettized.values()],
            "bias": self._biases.values(),
        }
        return {f"{kind} {number}": value for kind, some in parts.items() for number, value in enumerate(some)}

    def _palettes(self) -> Iterator[tuple[str, TrainedPalette]]:
        for slot, master in self._masters.items():
            yield slot, self._palettized[slot].palette(master)


def _settings(specification: PaletteSpecification) -> WeightSettings:
    assert specification.nbits is not None
    scale_axis = specification.scale_axis
    return WeightSettings(
        nbits=specification.nbits,
        axis=specification.axis or 0,
        output_axis=scale_axis or 0,
        group_size=specification.group_size,
        cluster_dim=specification.cluster_dim,
        per_channel_scale=scale_axis is not None,
        lut_dtype=specification.lut_dtype,
        softness=_HARD,
    )


def _size(value: torch.Tensor) -> float:
    return max(float(value.detach().square().mean().sqrt()), _LEAST)


def _checked(loss: float) -> float:
    if not math.isfinite(loss):
        raise EvaluationError(f"the loss is {loss}; lower the learning rate, or look for samples that are no numbers")
    return loss
