"""Palettes and biases of a package's program, trained to give what the float program gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mil_palettize.encoding.palette_cache import Clustered
from mil_palettize.expressions.weight_expr import WeightExpr
from mil_palettize.torch.training.free_parts import State
from mil_palettize.torch.training.network_training import NetworkTraining
from mil_palettize.torch.training.schedule import Tell, nothing_kept
from mil_palettize.torch.training.task import TrainingTask

_JUDGED = 256  # samples


@dataclass(frozen=True)
class Finetuned:
    """``expressions`` and ``biases`` by slot, both empty where no epoch was better than the start; ``losses``: on what
    was held out (on all samples where nothing was), at the start and after each epoch; ``best``: the number of the
    epoch that was kept, 0 for the start."""

    expressions: Mapping[str, WeightExpr]
    biases: Mapping[str, np.ndarray]
    losses: Sequence[float]
    best: int


def finetuned(task: TrainingTask, tell: Tell | None = None, checkpoints: Checkpoints | None = None) -> Finetuned:
    """Train the palettes and biases of ``task``. ``tell``: steps done, of how many, and what the loss is.
    ``checkpoints``: where each epoch is kept, and found by a later run, which goes on with the next one.

    Raises EvaluationError where a loss is no number, and for a network without outputs of floats; ConfigError for
    labels that the network has no classes for; PlanError where it is to stop here, and no epoch is kept.
    """
    schedule = task.schedule
    learned = [number for number in range(len(task.samples)) if number not in schedule.held]
    steps = schedule.epochs * -(-len(learned) // schedule.batch)
    training = NetworkTraining(task, steps)
    judged = (sorted(schedule.held) or learned)[:_JUDGED]
    losses, best = [training.judged(judged)], training.state()
    found = None if checkpoints is None else checkpoints.found(training)
    if found is not None:
        losses, best = found
    elif schedule.stop_here:
        raise nothing_kept("epoch")
    order = np.random.default_rng(schedule.seed)
    for epoch in range(0 if schedule.stop_here else schedule.epochs):
        mixed = order.permutation(learned)
        if epoch < len(losses) - 1:
            continue
        random = np.random.default_rng([schedule.seed, epoch])
        for start in range(0, len(mixed), schedule.batch):
            loss = training.step([int(number) for number in mixed[start : start + schedule.batch]], random)
            if tell is not None:
                told = f"epoch {epoch + 1} of {schedule.epochs}, loss {loss:.4g} (held out {losses[-1]:.4g})"
                tell(training.optimizer.done, steps, told)
        losses.append(training.judged(judged))
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

    def found(self, training: NetworkTraining) -> tuple[list[float], State] | None:
        """Losses so far and the best state; ``training`` goes on where it was. None where nothing is kept."""

        def built(header: dict[str, Any], arrays: State) -> tuple[list[float], State]:
            losses = [float(loss) for loss in header["losses"]]
            best = {name: arrays[f"best {name}"] for name in training.state()}
            training.resume({name: array for name, array in arrays.items() if not name.startswith("best ")})
            training.optimizer.done = int(header["done"])
            return losses, best

        return self.clustered.state(self.key, "fine tuning", built)

    def keep(self, training: NetworkTraining, losses: Sequence[float], best: State) -> None:
        """In the place of the epoch before. Raises PackageError where the folder cannot be written to."""
        arrays = {**training.progress(), **{f"best {name}": array for name, array in best.items()}}
        self.clustered.keep_state(self.key, {"losses": list(losses), "done": training.optimizer.done}, arrays)
