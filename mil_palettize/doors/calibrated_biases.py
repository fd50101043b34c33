"""Biases corrected after calibration, where outputs on samples held out get better by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mil_palettize.doors.calibration_guard import GUARDS, Guard
from mil_palettize.program.model import Model
from mil_palettize.program.weight import WeightId
from mil_palettize.rewriting.changed_biases import changeable

Arrays = Mapping[str, np.ndarray]
_SEVERAL = "biases stay as they are: only those of a model of one function are corrected"
_NO_HELD = "biases stay as they are: there are too few samples to hold some out, and see whether it helps"


def biases_corrected(
    model: Model,
    module: Any,
    samples: Sequence[Mapping[str, Any]],
    palettes: Arrays,
    options: Any,
    states: Sequence[Mapping[str, Any]] | None,
) -> tuple[dict[WeightId, np.ndarray], str]:
    """New biases, and what to say of them. ``palettes``: what the weights are now, by slot; ``options``: of the walk;
    ``states``: before each sample, None for zeros."""
    from mil_palettize.torch.calibration.biases import corrected_biases
    from mil_palettize.torch.calibration.walk import outputs_with

    if len(model.stages) > 1 or len(model.stages[0].program.functions) > 1:
        return {}, _SEVERAL
    held = sorted(options.held)[:GUARDS]
    if not held:
        return {}, _NO_HELD
    free = changeable(model)
    slots = {slot for slot in module.function.constants if module.constant_id(slot) in free}
    made = corrected_biases(module, samples, palettes, slots, options, states=states)
    some = [samples[number] for number in held]
    begun = None if states is None else [states[number] for number in held]
    device = options.device
    guard = Guard(module, some, begun, outputs_with(module, some, {}, states=begun, device=device), device)
    corrected = outputs_with(module, some, {**palettes, **made}, states=begun, device=device)
    comparison = guard.held(palettes, corrected)
    told = f"{comparison.told.replace('outputs', 'correcting biases: outputs', 1)}"
    figures = comparison.figures
    if not made or comparison.calibrated >= comparison.plain:
        return {}, f"{told} {figures}, no gain: biases stay as they are"
    return {module.constant_id(slot): array for slot, array in made.items()}, f"{told} {figures}"
