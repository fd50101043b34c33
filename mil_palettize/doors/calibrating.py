"""Palettes of a planned model made for what its ops give: the walk asks, the choice answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mil_palettize.algorithms.layerwise.moments import Moments
from mil_palettize.algorithms.making import make_palette
from mil_palettize.calibration.choice import Choice, Knowledge, choose, covering
from mil_palettize.calibration.request import Calibration
from mil_palettize.expressions.weight_expr import WeightExpr
from mil_palettize.planning.plan import Plan, WeightPlan
from mil_palettize.program.model import Model
from mil_palettize.program.serialized import Site
from mil_palettize.program.store import StoredWeight

_HELD = 5  # every so many samples one is held out of the fit


@dataclass(frozen=True, eq=False)
class Calibrated:
    """What was chosen, by the identity of the weights' ops."""

    choices: dict[int, Choice]


def calibrated(model: Model, plan: Plan, calibration: Calibration) -> Calibrated:
    planned = {id(s.op): (s, d.plan) for s, d in _sites(model, plan) if d.plan is not None and not s.weight.joint}
    choices: dict[int, Choice] = {}
    for stage in model.stages:
        for name in sorted(stage.program.functions):
            _walk_function(model, stage, name, planned, calibration, choices)
    return Calibrated(choices)


def _sites(model: Model, plan: Plan) -> Iterable[tuple[Site, Any]]:
    decisions = {d.weight: d for d in plan.decisions}
    return ((s, decisions[s.weight]) for s in model.survey().sites if s.weight in decisions)


def _walk_function(model, stage, name, planned, calibration, choices):  # type: ignore[no-untyped-def]
    from mil_palettize.torch.calibration.walk import WalkOptions, walk
    from mil_palettize.torch.evaluator.module import MILModule

    module = MILModule.from_stage(model, stage, name, "fp32")
    wanted = {slot: planned[id(s.op)] for slot, s in module.weight_sites.items() if id(s.op) in planned}
    samples = [module.features.tensors(s) for s in calibration.sample_data]
    held = frozenset(range(_HELD - 1, len(samples), _HELD))

    def solve(found):  # type: ignore[no-untyped-def]
        site, spec = wanted[found.slot]
        choice = _solved(StoredWeight(model.store, site), spec, found, calibration)
        choices[id(site.op)] = choice
        return choice.expr.decode()

    options = WalkOptions(calibration.positions, calibration.seed, held, calibration.memory or 1 << 31)
    walk(module, samples, list(wanted), solve, options)


def _solved(source: StoredWeight, spec: WeightPlan, found: Any, calibration: Calibration) -> Choice:
    weight = source.read().astype(np.float64)
    parts = [Moments(m.where, m.square, m.cross, m.count) for m in found.moments]
    given = None
    if found.reads is not None:
        given = found.reads.astype(np.float64)
        parts = []
    known = Knowledge(weight, covering(parts, weight.size), given, found.trial, calibration.made_up)
    return choose(
        known, partial(_made, source, spec), reconstruct=calibration.method == "reconstruct",
        tables=spec.mode == "kmeans", rounds=calibration.rounds,
    )  # fmt: skip


def _made(source: StoredWeight, spec: WeightPlan, importance: np.ndarray | None) -> WeightExpr:
    return make_palette(
        source, mode=spec.mode, nbits=spec.nbits, allowed_nbits=spec.allowed_nbits, axis=spec.axis,
        group_size=spec.group_size, cluster_dim=spec.cluster_dim, scale_axis=spec.scale_axis,
        lut_dtype=spec.lut_dtype, importance=importance if spec.cluster_dim == 1 else None,
    ).expr  # fmt: skip
