"""What samples tell of how much each element of a weight counts, for a plan."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mil_palettize.algorithms.layerwise.moments import Moments, objective
from mil_palettize.algorithms.layerwise.pivots import element_pivots
from mil_palettize.algorithms.layerwise.reconstruction import reconstructed
from mil_palettize.algorithms.making import ArraySource, make_palette
from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.budget.distortion import structured_cost
from mil_palettize.budget.ranks import rank_correlation
from mil_palettize.budget.weighed_choices import SampleCosts
from mil_palettize.calibration.choice import covering
from mil_palettize.calibration.request import Calibration
from mil_palettize.calibration.without_samples import Reading, reading
from mil_palettize.doors.calibration_functions import SampledFunctions, Tell, moments_found
from mil_palettize.doors.calibration_samples import Calls
from mil_palettize.program.model import Model
from mil_palettize.program.weight import WeightId

_DAMPING = 0.1
_PROBES = tuple(PaletteSpecification("kmeans", nbits, (nbits,)) for nbits in (3, 1))
_LOSSLESS = 1e-9  # of the weight's own cost: a palette with less error tells nothing
_LOOKED_AT = 16  # samples that outputs are measured on


@dataclass(frozen=True, eq=False)
class _Probe:
    """``cost``: of each element, but for a factor; ``array``: what the weight is with a palette, compensated; ``told``:
    the error of that by ``cost``; ``alone``: what an error of any element counts by the weight alone; ``measures``:
    what is told of the error by means that need no run of it."""

    cost: np.ndarray
    array: np.ndarray
    told: float
    alone: float
    measures: Mapping[str, float]


def element_costs(
    model: Model, wanted: Collection[WeightId], *, calibration: Calibration, tell: Tell | None = None
) -> SampleCosts:
    """How much a squared rounding error of each element adds to the noise of the outputs, relative to their power:
    float32 of the weight's shape. Constants that no sample reaches are left out.

    The inputs' second moments say what compensation leaves of an error, the squared gradients (labels are drawn from
    the model's own answers) which outputs of the op count more than others, and a run of samples held out of all that,
    with a palette of 3 bits in the weight's place (of 1 bit where that is lossless; the better of plain and
    compensated), how much all of it counts at the model's outputs; where these do not change at all, an error counts as
    in the weight alone. Raises EvaluationError for samples that the model does not take, UnsupportedOpError for ops
    that are not known, ConfigError without torch.
    """
    from mil_palettize.torch.calibration.fisher import fisher, gives_floats
    from mil_palettize.torch.evaluator.model_pipeline import Pipeline

    sampled = SampledFunctions(model, calibration)
    readings = {site.weight.id: reading(site.weight) for site in model.survey().sites if site.weight.id in wanted}
    found: dict[WeightId, np.ndarray] = {}
    told: dict[str, list[float]] = defaultdict(list)
    noises: list[float] = []
    for whole, given in sampled.functions():
        if given is None:
            continue
        if isinstance(whole, Pipeline):
            sampled.notes.append("a pipeline is planned by the weights alone")
            continue
        if not gives_floats(whole, given.arrays[0]):
            sampled.notes.append("no output is of floats that errors could show in: planned by the weights alone")
            continue
        ids = {slot: weight for slot, weight in whole.weight_ids.items() if weight in wanted}
        information = fisher(whole, given.arrays, seed=calibration.seed)
        weights, probes = whole.weights, dict[str, _Probe]()

        def note(
            collected: Any, weights: Any = weights, information: Any = information, probes: Any = probes, ids: Any = ids
        ) -> None:
            weight = weights[collected.slot].detach().numpy()
            if np.isfinite(weight).all():
                read = readings[ids[collected.slot]]
                probes[collected.slot] = _probe(collected, weight, information[collected.slot], read)

        sampled.listen(whole, given, list(ids), note, given.held, tell=tell)
        for slot, noise in _noises(whole, given, probes, calibration.device).items():
            found[ids[slot]] = _scaled(probes[slot], noise)
            noises.append(noise)
            for name, value in probes[slot].measures.items():
                told[name].append(value)
    ranks = {name: rank_correlation(values, noises) for name, values in told.items()}
    return SampleCosts(found, tuple(sampled.notes), ranks)


def _probe(collected: Any, weight: np.ndarray, information: np.ndarray, read: Reading | None) -> _Probe:
    """``information``: the mean squared gradient of each element; ``read``: how the weight is read."""
    moments = () if collected.reads is not None else covering(moments_found(collected), weight.size)
    absolute = _cost(moments, information)
    cost = (absolute / absolute.max()).astype(np.float32)
    flat = weight.reshape(-1).astype(np.float64)
    for specification in _PROBES:
        made = make_palette(ArraySource(collected.slot, weight), specification, importance=cost).expr
        plain = flat - made.decode().reshape(-1)
        error = float(np.vdot(cost.reshape(-1) * plain, plain))
        if error > _LOSSLESS * float(np.vdot(cost.reshape(-1) * flat, flat)):
            break
    array = made.decode()
    if moments:
        aims = [objective(part, flat, _DAMPING, asymmetric=False) for part in moments]
        compensated = reconstructed(made, aims, rounds=0).expr.decode()
        trial = collected.trial  # few samples make compensation look better than it is on others
        array = compensated if trial is None else min((array, compensated), key=trial)
    squares, power = np.square(plain).reshape(weight.shape), float(flat @ flat) or 1.0
    structured = structured_cost(weight, read.rows if read else 0, read)
    measures = {
        "error relative to the weight": float(squares.sum()) / power,
        "error under structured moments": float((structured * squares).sum()),
        "squared gradients": float((information * squares).sum()),
        "squared gradients and moments": float((absolute * squares).sum()),
    }
    return _Probe(cost, array.astype(weight.dtype), error, 1.0 / power, measures)


def _cost(moments: Sequence[Moments], information: np.ndarray) -> np.ndarray:
    damped = information + _DAMPING * (float(information.mean()) or 1e-12)
    if not moments:
        return damped
    flat, cost = damped.reshape(-1), np.zeros(information.size)
    for part in moments:
        power = np.einsum("gjj->g", part.square)
        floor = 1e-12 * (float(power.max()) or 1.0)
        rows = flat[part.where].sum(axis=2) / np.maximum(power, floor)[:, None]
        cost += element_pivots(part, _DAMPING, rows, information.size)
    return np.maximum(cost, 1e-9 * float(cost.max())).reshape(information.shape)


def _noises(module: Any, given: Calls, probes: Mapping[str, _Probe], device: str) -> dict[str, float]:
    """Of the outputs, with each of ``probes`` in its weight's place."""
    from mil_palettize.torch.calibration.sequences import states_before
    from mil_palettize.torch.calibration.walk import outputs_with
    from mil_palettize.torch.metrics import outputs_noise

    looked_at = (sorted(given.held) or range(len(given.arrays)))[:_LOOKED_AT]
    count = looked_at[-1] + 1
    samples = [module.features.tensors(call) for call in given.arrays[:count]]
    every = states_before(module, samples, given.begins[:count])
    calls, states = [samples[i] for i in looked_at], None if every is None else [every[i] for i in looked_at]
    before = outputs_with(module, calls, {}, states=states, device=device)
    found = {}
    for slot, probe in probes.items():
        after = outputs_with(module, calls, {slot: probe.array}, states=states, device=device)
        found[slot] = outputs_noise(before, after) / max(1, len(before[0]))
    return found


def _scaled(probe: _Probe, noise: float) -> np.ndarray:
    """The costs of ``probe`` in units of the outputs' ``noise``, as it was measured."""
    if noise > 0.0 and probe.told > 0.0 and math.isfinite(noise):
        return (probe.cost * (noise / probe.told)).astype(np.float32)
    return np.full(probe.cost.shape, probe.alone, np.float32)  # these samples tell nothing of it
