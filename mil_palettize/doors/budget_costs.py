"""What samples tell of how much each element of a weight counts, for a plan."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from mil_palettize.algorithms.layerwise.pivots import element_pivots
from mil_palettize.calibration.choice import covering
from mil_palettize.calibration.request import Calibration
from mil_palettize.doors.calibrating import CalibrationRun, Tell, moments_found
from mil_palettize.program.model import Model
from mil_palettize.program.weight import WeightId

_DAMPING = 0.1


def element_costs(
    model: Model, wanted: Collection[WeightId], *, calibration: Calibration, tell: Tell | None = None
) -> tuple[dict[WeightId, np.ndarray], list[str]]:
    """How much a squared rounding error of each element changes the loss, in nats, about: float32 of the weight's
    shape, by constant; and what is to be told of the samples. Constants that no sample reaches are left out.

    The inputs' second moments say what compensation leaves of an error, the mean squared gradient how much the loss
    depends on each output; labels are drawn from the model's own answers. Raises EvaluationError for samples that the
    model does not take, UnsupportedOpError for ops that are not known, ConfigError without torch.
    """
    from mil_palettize.torch.calibration.fisher import fisher
    from mil_palettize.torch.evaluator.model_pipeline import Pipeline

    run = CalibrationRun(model, calibration, {})
    found: dict[WeightId, np.ndarray] = {}
    for whole, given in run.functions():
        if given is None:
            continue
        if isinstance(whole, Pipeline):
            run.done.notes.append("a pipeline is planned by the weights alone")
            continue
        ids = {slot: weight for slot, weight in whole.weight_ids.items() if weight in wanted}
        information = fisher(whole, given.arrays, seed=calibration.seed)

        def note(
            collected: Any, ids: Mapping[str, WeightId] = ids, information: Mapping[str, np.ndarray] = information
        ) -> None:
            found[ids[collected.slot]] = _cost(collected, information[collected.slot])

        run.listen(whole, given, list(ids), note, tell=tell)
    return found, run.done.notes


def _cost(collected: Any, information: np.ndarray) -> np.ndarray:
    """``information``: the mean squared gradient of each element."""
    damped = information + _DAMPING * (float(information.mean()) or 1e-12)
    moments = () if collected.reads is not None else covering(moments_found(collected), information.size)
    if not moments:
        return (0.5 * damped).astype(np.float32)
    flat, cost = damped.reshape(-1), np.zeros(information.size)
    for part in moments:
        power = np.einsum("gjj->g", part.square)
        floor = 1e-12 * (float(power.max()) or 1.0)
        rows = flat[part.where].sum(axis=2) / np.maximum(power, floor)[:, None]
        cost += element_pivots(part, _DAMPING, rows, information.size)
    return (0.5 * cost).reshape(information.shape).astype(np.float32)
