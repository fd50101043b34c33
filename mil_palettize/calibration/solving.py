"""One planned weight and what samples told of it to a palette."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mil_palettize.algorithms.layerwise.moments import Moments
from mil_palettize.algorithms.registry import ALGORITHMS
from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.calibration.choice import PLAIN, Choice, Judge, Knowledge, choose, covering
from mil_palettize.calibration.request import Calibration
from mil_palettize.encoding.encoder import PMap, Task
from mil_palettize.encoding.results import CalibrationFigures, Declined, Encoded
from mil_palettize.expressions.weight_expr import Scale, WeightExpr
from mil_palettize.request.importance import Importance
from mil_palettize.text import format_count


@dataclass(frozen=True, eq=False)
class Findings:
    """What a walk found where a weight is read. ``moments``: of each op that multiplies with it; ``reads``: how often
    look-ups read each element, None without any; ``judge``: the error of what comes out behind the op with another
    array, None where no samples are held out; ``samples``: how many were looked at, 0 for none; ``sensitivity``: how
    much that depends on each element (Fisher information), None where ``moments`` say it;
    ``spread``: like ``map``, for palettes among which one is chosen."""

    moments: Sequence[Moments] = ()
    reads: np.ndarray | None = None
    judge: Judge | None = None
    samples: int = 0
    sensitivity: np.ndarray | None = None
    spread: PMap = map


@dataclass(frozen=True, eq=False)
class Solved:
    """``plain``: the palette without calibration, to fall back on."""

    encoded: Encoded
    plain: Encoded


class _DeclinedError(Exception):
    def __init__(self, declined: Declined) -> None:
        super().__init__()
        self.declined = declined


def is_left_alone(specification: PaletteSpecification) -> bool:
    """Whether its palettes are what they are: lossless ones, and a user's own entries."""
    return ALGORITHMS[specification.mode].lossless or specification.lut_function is not None


def solved(task: Task, findings: Findings, calibration: Calibration, pmap: PMap = map) -> Solved | Declined:
    """The palette of ``task`` that is best for the op's output, as far as ``calibration`` allows. ``pmap``: like
    ``map``, for pieces of the weight. Raises what :class:`Task` does.
    """
    started = time.perf_counter()
    plain = task(pmap)
    if isinstance(plain, Declined):
        return plain
    if is_left_alone(task.specification):
        return Solved(plain, plain)
    weight = (task.source.read() if task.held is None else task.held.decode()).astype(np.float64)
    try:
        choice = _chosen(task, plain, weight, findings, calibration, pmap)
    except _DeclinedError as error:
        return error.declined
    return Solved(_encoded(task, plain, choice, weight, findings, time.perf_counter() - started), plain)


def _chosen(
    task: Task, plain: Encoded, weight: np.ndarray, findings: Findings, calibration: Calibration, pmap: PMap
) -> Choice:
    def make(importance: np.ndarray | None) -> WeightExpr:
        if importance is None:
            return plain.expr
        made = replace(task, clustered=None, importance=Importance(importance, ""))(pmap)
        if isinstance(made, Declined):
            raise _DeclinedError(made)
        return made.expr

    moments = () if findings.reads is not None else covering(findings.moments, weight.size)
    reads = None if findings.reads is None else findings.reads.astype(np.float64)
    sampled = calibration.method != "weights"
    known = Knowledge(
        weight, moments, reads, findings.judge, calibration.made_up,
        sensitivity=findings.sensitivity, usual=0.1 if sampled else 0.0,
    )  # fmt: skip
    reconstruct = calibration.method != "importance" and weight.shape == plain.expr.shape
    return choose(
        known,
        make,
        reconstruct=reconstruct,
        tables=ALGORITHMS[task.specification.mode].optimal and not isinstance(task.held, Scale),
        rounds=calibration.rounds,
        spread=findings.spread,
    )


def _encoded(
    task: Task, plain: Encoded, choice: Choice, weight: np.ndarray, findings: Findings, seconds: float
) -> Encoded:
    difference = weight - choice.expr.decode()
    weighted = plain.weighted_error
    if choice.method != PLAIN and task.importance is not None:
        weighted = float(np.vdot(task.importance.spread(weight.shape) * difference, difference))
    decibels = choice.decibels
    figures = CalibrationFigures(
        choice.method,
        choice.damping,
        findings.samples,
        None if decibels is None else decibels[0],
        None if decibels is None else decibels[1],
    )
    return replace(
        plain,
        expr=choice.expr,
        sse=float(np.vdot(difference, difference)),
        note="; ".join(part for part in (plain.note, _told(figures, choice.restricted)) if part),
        seconds=seconds,
        weighted_error=weighted,
        calibration=figures,
        kept=plain.kept and choice.method == PLAIN,
    )


def _told(figures: CalibrationFigures, restricted: bool) -> str:
    damping = f", damping {figures.damping:g}" if figures.damping else ""
    source = format_count(figures.samples, "sample") if figures.samples else "the weights alone"
    why = " (its form, or the ops that read it, rule compensation out)" if restricted else ""
    told = f"calibrated by {source}: {figures.method}{damping}{why}"
    if figures.before_db is None or figures.after_db is None:
        return told
    return f"{told}; output {figures.before_db:.1f} → {figures.after_db:.1f} dB"
