"""Biases corrected after calibration, where outputs on samples held out get better by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mil_palettize.doors.calibration_guard import Comparison, Guard
from mil_palettize.program.model import Model
from mil_palettize.program.weight import WeightId
from mil_palettize.rewriting.changed_biases import changeable
from mil_palettize.text import format_count

Arrays = Mapping[str, np.ndarray]
_SEVERAL = "biases stay as they are: only those of a model of one function are corrected"
NO_HELD = "biases stay as they are: there are too few samples to hold some out, and see whether it helps"


def biases_corrected(
    model: Model,
    guard: Guard,
    samples: Sequence[Mapping[str, Any]],
    palettes: Arrays,
    options: Any,
    states: Sequence[Mapping[str, Any]] | None,
) -> tuple[dict[WeightId, np.ndarray], str]:
    """New biases, and what to say of them. ``guard``: of samples that are held out; ``palettes``: what the weights are
    now, by slot; ``options``: of the walk; ``states``: before each sample, None for zeros."""
    from mil_palettize.torch.calibration.biases import corrected_biases

    if len(model.stages) > 1 or len(model.stages[0].program.functions) > 1:
        return {}, _SEVERAL
    module, free = guard.module, changeable(model)
    slots = {slot for slot in module.function.constants if module.constant_id(slot) in free}
    made = corrected_biases(module, samples, palettes, slots, options, states=states)
    count = format_count(len(guard.samples), "sample")
    told = f"correcting biases: outputs of {module.function_name!r} on {count} held out"
    found = Comparison(told, guard.noise(palettes), guard.noise({**palettes, **made}))
    if not made or found.calibrated >= found.plain:
        return {}, f"{told}: {found.figures}, no gain: biases stay as they are"
    return {module.constant_id(slot): array for slot, array in made.items()}, f"{told}: {found.figures}"
