"""Calibrated palettes of a planned model trained on the same samples, with the biases beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from mil_palettize.calibration.finetuning import Finetuning
from mil_palettize.calibration.kept import training_digest
from mil_palettize.calibration.request import Calibration
from mil_palettize.doors.calibrating import Calibrated
from mil_palettize.doors.calibration_plan import PlannedWeight, planned_weights
from mil_palettize.doors.calibration_samples import Calls, calls_of
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


def check_finetuning(calibration: Calibration | None, finetuning: Finetuning | None) -> None:
    """Raise ConfigError for a fine tuning without samples."""
    if finetuning is None:
        return
    if calibration is None or calibration.method == "weights":
        raise ConfigError("finetuning needs samples: give calibration=Calibration(samples) (--calibrate) with it")
    if calibration.device != "cpu":
        raise ConfigError(f"finetuning runs on the cpu, but the calibration's device is {calibration.device!r}")


def finetune(
    model: Model,
    plan: Plan,
    calibration: Calibration,
    finetuning: Finetuning,
    done: Calibrated,
    tell: Tell | None,
    clustered: Clustered | None = None,
) -> None:
    """Put trained palettes and biases into ``done``, where what was held out gains by them; notes say what came of it.
    ``clustered``: where each epoch is kept, and found again by a run that is asked for the same.

    Raises PlanError for a model of several functions or stages and for samples that are sequences, ConfigError for
    labels of another number, EvaluationError for a loss that is no number.
    """
    from mil_palettize.torch.calibration.biases import biases_of
    from mil_palettize.torch.evaluator.model_pipeline import evaluated
    from mil_palettize.torch.training.finetuned_module import Checkpoints, Schedule, finetuned

    if len(model.stages) > 1 or len(model.stages[0].program.functions) > 1:
        raise PlanError("finetuning is for models of one function; leave it out")
    module: Any = evaluated(model, None)
    given = calls_of(finetuning.samples_of(calibration), module, [])
    _check_samples(given, finetuning)
    planned = planned_weights(model, plan, None, sent=False)
    made = {
        slot: (planned[weight], encoded)
        for slot, weight in module.weight_ids.items()
        if weight in planned and isinstance(encoded := done.palettes.get(weight), Encoded)
    }
    uses = Counter(one.weight.storage for one in planned.values())
    alone = {slot for slot, (one, _) in made.items() if one.weight.storage is None or uses[one.weight.storage] == 1}
    learned = {slot for slot, (_, encoded) in made.items() if slot in alone and _learns(encoded)}
    if not learned:
        done.notes.append("fine tuning: there is no palette that it could train")
        return
    arrays = {slot: encoded.expr.decode() for slot, (_, encoded) in made.items()}
    free = changeable(model)
    allowed = {slot for slot in module.function.constants if module.constant_id(slot) in free}
    schedule = Schedule(
        finetuning.epochs, finetuning.batch, finetuning.learning_rate, finetuning.temperature, finetuning.seed,
        given.held, finetuning.labels,
    )  # fmt: skip
    checkpoints = None
    if clustered is not None:
        begun = {slot: encoded.expr for slot, (_, encoded) in made.items()}
        key = training_digest(fingerprint(model.spec, model.store), finetuning, begun, given.arrays)
        checkpoints = Checkpoints(clustered, key)
    result = finetuned(
        module,
        [module.features.tensors(call) for call in given.arrays],
        {slot: (encoded.specification, encoded.expr) for slot, (_, encoded) in made.items() if slot in learned},
        {slot: array for slot, array in arrays.items() if slot not in learned},
        list(biases_of(module, arrays, allowed)),
        schedule,
        tell,
        checkpoints,
    )
    for slot, expr in result.expressions.items():
        one, encoded = made[slot]
        done.palettes[one.weight.id] = _trained(one, encoded, expr, len(given) - len(given.held))
    for slot, array in result.biases.items():
        done.biases[module.constant_id(slot)] = _as_stored(module, slot, array)
    done.notes.append(_told(result, given, len(learned)))


def _check_samples(given: Calls, finetuning: Finetuning) -> None:
    if not all(given.begins):
        raise PlanError("finetuning takes samples that are single calls, no sequences")
    labels = finetuning.labels
    if labels is not None and len(labels) != len(given):
        raise ConfigError(f"{len(labels)} labels for {len(given)} samples; give one for each")


def _learns(encoded: Encoded) -> bool:
    expr = encoded.expr.data if isinstance(encoded.expr, Scale) else encoded.expr
    return isinstance(expr, Lut) and encoded.specification.mode in _MODES


def _trained(one: PlannedWeight, encoded: Encoded, expr: Any, count: int) -> Encoded:
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


def _told(result: Any, given: Calls, weights: int) -> str:
    held = f"{format_count(len(given.held), 'sample')} held out" if given.held else "the samples it learned from"
    start, best = result.losses[0], result.losses[result.best]
    told = f"fine tuning {format_count(weights, 'weight')}: loss on {held}"
    if result.best == 0:
        return f"{told} {start:.4g}, no epoch was better: palettes stay as they were"
    return f"{told} {start:.4g} → {best:.4g}, kept from epoch {result.best} of {len(result.losses) - 1}"
