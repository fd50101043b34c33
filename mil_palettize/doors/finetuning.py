"""Calibrated palettes of a planned model trained on samples, with the biases beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mil_palettize.calibration.finetuning import Finetuning
from mil_palettize.calibration.kept import training_digest
from mil_palettize.calibration.request import Calibration
from mil_palettize.doors.calibrating import Calibrated
from mil_palettize.doors.calibration_plan import PlannedWeight, planned_weights
from mil_palettize.doors.calibration_samples import Calls, calls_of, given_calls
from mil_palettize.encoding.palette_cache import Clustered
from mil_palettize.encoding.results import CalibrationFigures, Encoded
from mil_palettize.errors import ConfigError, PlanError
from mil_palettize.expressions.weight_expr import Lut, Scale
from mil_palettize.planning.plan import Plan
from mil_palettize.program.fingerprints import fingerprint
from mil_palettize.program.model import Model
from mil_palettize.rewriting.changed_biases import changeable
from mil_palettize.text import format_count

TRAINED = "trained"
_MODES = ("kmeans", "uniform")  # others promise what training would break
Tell = Callable[[int, int, str], object]


def check_finetuning(calibration: Calibration | None, finetuning: object, resume: object) -> Finetuning | None:
    """``finetuning`` as the argument of a door. Raises ConfigError for what is none, for one without samples, and for
    one that is to stop where it is without a folder to ``resume`` from."""
    if finetuning is None:
        return None
    if not isinstance(finetuning, Finetuning):
        raise ConfigError(
            f"finetuning is {type(finetuning).__name__}, it must be a mil_palettize.Finetuning or None: "
            "Finetuning(samples, epochs=3)"
        )
    if calibration is None:
        raise ConfigError("finetuning begins with calibrated palettes: give calibration=Calibration(samples) with it")
    if calibration.method == "weights" and finetuning.sample_data is None:
        raise ConfigError("finetuning needs samples, and a calibration by weights has none: give Finetuning(samples)")
    if calibration.device != "cpu":
        raise ConfigError(f"finetuning runs on the cpu, but the calibration's device is {calibration.device!r}")
    if finetuning.stop_here and resume is None:
        raise ConfigError("finetuning stop_here writes what resume has kept; give resume (--resume DIR) with it")
    return finetuning


@dataclass(frozen=True)
class PreparedFinetuning:
    """What is known before palettes are made. ``given``: the samples; ``notes``: on how they were read."""

    model: Model
    finetuning: Finetuning
    module: Any
    given: Calls
    notes: Sequence[str]

    @classmethod
    def of(cls, model: Model, calibration: Calibration, finetuning: Finetuning) -> PreparedFinetuning:
        """Raises PlanError for a model of several functions or stages, for samples that are sequences, and for blocks
        of a model with states; ConfigError for labels that are not one class of the network for each sample, and for
        an augmentation of what are no pictures; EvaluationError for a model without outputs of floats, and as
        calibration does."""
        from mil_palettize.torch.evaluator.model_pipeline import evaluated
        from mil_palettize.torch.pixels import check_pictures, pixels_of

        if len(model.stages) > 1 or len(model.stages[0].program.functions) > 1:
            raise PlanError("finetuning is for models of one function; calibrate this one (palettize --calibrate)")
        module: Any = evaluated(model, None)
        if finetuning.blocks and module.function.states:
            raise PlanError("finetuning blocks are for models without states; leave blocks out to train it as a whole")
        notes: list[str] = []
        data = finetuning.sample_data
        if data is None:
            own = calls_of(calibration, module, [])
        else:
            pixels = pixels_of(finetuning.image_mean, finetuning.image_scale)
            check_pictures(pixels, data)
            own = given_calls(data, module, notes, pixels)
        if not all(own.begins):
            raise PlanError("finetuning takes samples that are single calls, no sequences")
        prepared = cls(model, finetuning, module, own, notes)
        for number in range(len(own)):
            module.values_of(prepared._tensors(number))
        prepared._check_answers()
        prepared._check_pictures()
        return prepared

    def _check_answers(self) -> None:
        from mil_palettize.torch.training.losses import Distance

        wanted = self.module.results(self.given.arrays[0])
        distance = Distance.of([wanted], self.finetuning.temperature)
        labels = self.finetuning.labels
        if labels is None:
            return
        if len(labels) != len(self.given):
            raise ConfigError(f"{len(labels)} labels for {len(self.given)} samples; give one for each")
        distance.check_labels(labels, wanted)

    def _check_pictures(self) -> None:
        from mil_palettize.torch.training.augmentation import is_picture

        if self.finetuning.augment and not any(map(is_picture, self._tensors(0).values())):
            raise ConfigError("finetuning augment is for models that take pictures (floats of four axes); leave it out")

    def _tensors(self, number: int) -> dict[str, Any]:
        tensors: dict[str, Any] = self.module.features.tensors(self.given.arrays[number])
        return tensors

    def carry_out(self, plan: Plan, done: Calibrated, tell: Tell | None, clustered: Clustered | None) -> None:
        """Put trained palettes and biases into ``done``, where what was held out gains by them; notes say what came of
        it. ``clustered``: where each epoch or block is kept, and found again by a run that is asked for the same.

        Raises EvaluationError for a loss that is no number, PlanError for biases that their type does not hold.
        """
        done.notes += [note for note in self.notes if note not in done.notes]
        planned = planned_weights(self.model, plan, None, sent=False)
        made = {
            slot: (planned[weight], encoded)
            for slot, weight in self.module.weight_ids.items()
            if weight in planned and isinstance(encoded := done.palettes.get(weight), Encoded)
        }
        uses = Counter(one.weight.storage for one in planned.values())
        alone = {slot for slot, (one, _) in made.items() if one.weight.storage is None or uses[one.weight.storage] == 1}
        learned = {slot for slot, (_, encoded) in made.items() if slot in alone and _learns(encoded)}
        if not learned:
            done.notes.append("fine tuning: there is no palette that it could train")
            return
        expressions, biases, told = self._trained(made, learned, tell, clustered)
        for slot, expr in expressions.items():
            one, encoded = made[slot]
            count = len(self.given) - len(self.given.held)
            done.palettes[one.weight.id] = _trained_palette(one, encoded, expr, count)
        for slot, array in biases.items():
            done.biases[self.module.constant_id(slot)] = _as_stored(self.module, slot, array)
        done.notes.append(told)

    def _trained(
        self,
        made: dict[str, tuple[PlannedWeight, Encoded]],
        learned: set[str],
        tell: Tell | None,
        clustered: Clustered | None,
    ) -> tuple[dict[str, Any], dict[str, np.ndarray], str]:
        """Expressions and biases by slot, and what is told of them."""
        from mil_palettize.torch.calibration.biases import biases_of
        from mil_palettize.torch.training.block_reconstruction import reconstructed
        from mil_palettize.torch.training.finetuned_module import Checkpoints, finetuned
        from mil_palettize.torch.training.kept_blocks import KeptBlocks
        from mil_palettize.torch.training.schedule import Schedule
        from mil_palettize.torch.training.settings import WeightSettings
        from mil_palettize.torch.training.task import TrainingTask
        from mil_palettize.torch.training.trained_palette import TrainedPalette

        asked, module, held = self.finetuning, self.module, self.given.held
        arrays = {slot: encoded.expr.decode() for slot, (_, encoded) in made.items()}
        palettes = {
            slot: (TrainedPalette.of_expression(WeightSettings.of_specification(e.specification), e.expr), e.expr.dtype)
            for slot, (_, e) in made.items()
            if slot in learned
        }
        fixed = {slot: array for slot, array in arrays.items() if slot not in learned}
        free = changeable(self.model)
        allowed = {slot for slot in module.function.constants if module.constant_id(slot) in free}
        biases = list(biases_of(module, arrays, allowed))
        samples = [self._tensors(number) for number in range(len(self.given))]
        schedule = Schedule(
            asked.epochs, asked.batch, asked.rate, asked.temperature, asked.seed, held, asked.labels,
            tuple(asked.augment), asked.stop_here,
        )  # fmt: skip
        task = TrainingTask(module, samples, palettes, fixed, biases, schedule)
        begun = {slot: encoded.expr for slot, (_, encoded) in made.items()}
        key = training_digest(fingerprint(self.model.spec, self.model.store), asked, begun, self.given.arrays)
        if asked.blocks:
            blocks = reconstructed(task, tell, None if clustered is None else KeptBlocks(clustered, key))
            return dict(blocks.expressions), dict(blocks.biases), self._told_of_blocks(blocks)
        result = finetuned(task, tell, None if clustered is None else Checkpoints(clustered, key))
        return dict(result.expressions), dict(result.biases), self._told(result, len(learned))

    def _told(self, result: Any, weights: int) -> str:
        start, best = result.losses[0], result.losses[result.best]
        told = f"fine tuning {format_count(weights, 'weight')}: loss on {self._judged}"
        if result.best == 0:
            lower = "a tenth of the learning rate (learning_rate, --learning-rate) may do better"
            return f"{told} {start:.4g}, no epoch was better: palettes stay as they were; {lower}"
        return f"{told} {start:.4g} → {best:.4g}, kept from epoch {result.best} of {len(result.losses) - 1}"

    def _told_of_blocks(self, result: Any) -> str:
        before, after = (-10.0 * np.log10(max(noise, 1e-30)) for noise in result.noise)
        told = f"block reconstruction: outputs on {self._judged}"
        if not result.better:
            return f"{told} have {before:.1f} dB, {after:.1f} dB with blocks fitted: palettes stay as they were"
        blocks = format_count(result.count, "block")
        return f"{told} {before:.1f} → {after:.1f} dB, {result.better} of {blocks} got better"

    @property
    def _judged(self) -> str:
        held = self.given.held
        return f"{format_count(len(held), 'sample')} held out" if held else "the samples it learned from"


def _learns(encoded: Encoded) -> bool:
    expr = encoded.expr.data if isinstance(encoded.expr, Scale) else encoded.expr
    return isinstance(expr, Lut) and encoded.specification.mode in _MODES


def _trained_palette(one: PlannedWeight, encoded: Encoded, expr: Any, count: int) -> Encoded:
    weight = one.task.source.read().astype(np.float64)
    difference = weight - expr.decode()
    figures = CalibrationFigures(TRAINED, 0.0, count, None, None)
    note = f"fine tuned on {format_count(count, 'sample')}"
    return replace(
        encoded,
        expr=expr,
        sse=float(np.vdot(difference, difference)),
        note="; ".join(part for part in (encoded.note, note) if part),
        weighted_error=None,
        calibration=figures,
        kept=False,
    )


def _as_stored(module: Any, slot: str, array: np.ndarray) -> np.ndarray:
    old = module.function.constants[slot].decode()
    with np.errstate(over="ignore"):
        new = array.reshape(old.shape).astype(old.dtype)
    if not np.isfinite(new).all():
        raise PlanError(f"the trained bias {slot!r} does not fit {old.dtype}; lower the learning rate")
    return new
