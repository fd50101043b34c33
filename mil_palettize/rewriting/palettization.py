"""One model palettized, whichever door it came through: planned, moved up as far as needed, written to a folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mil_palettize.encoding.palette_cache import Clustered
from mil_palettize.encoding.results import Declined, Encoded, Rewritten
from mil_palettize.encoding.workers import Workers
from mil_palettize.errors import ConfigError, PlanError
from mil_palettize.planning.plan import SELECTIONS, Plan, make_plan
from mil_palettize.program.forms import FIRST_WITH_PALETTES, FORMS
from mil_palettize.program.model import Model
from mil_palettize.program.opsets.move import Opset, opset_of, parse_target
from mil_palettize.program.scopes import is_constant_op
from mil_palettize.program.survey import Survey
from mil_palettize.program.weight import WeightId
from mil_palettize.reports.progress import Progress
from mil_palettize.reports.report import Report
from mil_palettize.reports.summary import complete, plan_anew, planned_report
from mil_palettize.reports.weight_report import Moved
from mil_palettize.request.normalised import Requests
from mil_palettize.rewriting.other_files import folder_nbytes
from mil_palettize.rewriting.planned_palettes import PlannedPalettes
from mil_palettize.rewriting.redo import Old, all_ops, as_if_dense, find_old, tell
from mil_palettize.text import format_count, format_first


@dataclass(frozen=True)
class _Planner:
    """What was asked for. ``after``: opset that functions of an opset will be of when written."""

    requests: Requests
    select: str
    strict: bool
    after: dict[str, str]

    def plan(self, survey: Survey, redone: list[Old], *, strict: bool | None = None, idle: Sequence[str] = ()) -> Plan:
        """``redone``: palettes that get another one. ``idle``: options that have no effect. Raises ConfigError and
        PlanError as :func:`prepare` does."""
        weights, op_names = as_if_dense(survey, redone)
        return make_plan(
            weights,
            self.requests,
            select=self.select,
            strict=self.strict if strict is None else strict,
            opset_after=self.after,
            op_types=survey.op_types,
            op_names=op_names,
            idle=idle,
        )


@dataclass(frozen=True)
class Prepared:
    """``model`` moved in memory (``changes``), and what will be done to it. ``redone``: palettes that are there already
    and for which ``plan`` has another."""

    model: Model
    planner: _Planner
    plan: Plan
    changes: list[Moved]
    redone: list[Old]

    @property
    def moved(self) -> list[Moved]:
        """What the move changed of that which will be written."""
        replaced = all_ops(self.model.survey(), self.redone)
        return [c for c in self.changes if not is_constant_op(c.op_type) or (c.function, c.op_name) not in replaced]

    @property
    def importance(self) -> dict[WeightId, np.ndarray]:
        """That palettes are made with, by constant."""
        weighted = ((d.weight, d.importance) for d in self.plan.decisions if d.importance is not None)
        return {weight.id: importance.array for weight, importance in weighted}

    def keeping(self, weights: Container[WeightId]) -> Prepared:
        """The same with those of ``weights`` left as they are that were to be made anew."""
        redone = [old for old in self.redone if old.weight.id not in weights]
        return replace(self, redone=redone, plan=self.planner.plan(self.model.survey(), redone))

    def report(self, source: str, destination: str | None, *, dry_run: bool = False) -> Report:
        """What is known before a value is read."""
        stored = {old.weight: old.nbytes for old in self.redone}
        nbytes = self.model.package.nbytes()
        report = planned_report(source, destination, nbytes, self.plan, self.moved, stored=stored, dry_run=dry_run)
        if dry_run:
            tell(report, self.plan, self.redone)
        return report


def prepare(
    model: Model, requests: Requests, *, target: object, select: str, strict: bool, redo: bool = False
) -> Prepared:
    """Plan, moving the model in memory: to ``target``, or out of an opset that can hold no palette. ``redo``: constants
    that are palettes already are planned for as if they were dense.

    Raises ConfigError and PlanError for everything that names, types, consumers and target rule out; under ``strict``
    also PlanError where no weight is left to palettize.
    """
    if select not in SELECTIONS:
        raise ConfigError(f"select is {select!r}, allowed are {SELECTIONS}")
    prepared = _moved_and_planned(model, requests, target, select, strict, redo)
    decisions = prepared.plan.decisions
    if strict and all(decision.specification is None for decision in decisions):
        raise nothing_to_do(decision.reason for decision in decisions)
    return prepared


def _moved_and_planned(
    model: Model, requests: Requests, target: object, select: str, strict: bool, redo: bool
) -> Prepared:
    if target is not None:
        changes = _move(model, _palette_target(model, target))
        return _prepared(model, _Planner(requests, select, strict, {}), changes, redo)
    after = {name: FIRST_WITH_PALETTES for name, form in FORMS.items() if form is None}
    prepared = _prepared(model, _Planner(requests, select, strict, after), [], redo)
    if any(d.specification is not None and d.weight.opset in after for d in prepared.plan.decisions):
        changes = _move(model, parse_target(FIRST_WITH_PALETTES))
        return _prepared(model, _Planner(requests, select, strict, {}), changes, redo)
    return prepared


def _prepared(model: Model, planner: _Planner, changes: list[Moved], redo: bool) -> Prepared:
    survey = model.survey()
    redone = find_old(survey.sites) if redo else []
    idle = ["redo has no effect: no weight is a palette that another could replace"] if redo and not redone else []
    if redone:
        decisions = planner.plan(survey, redone, strict=False).decisions
        planned = {decision.weight for decision in decisions if decision.specification is not None}
        redone = [old for old in redone if old.weight in planned]
    return Prepared(model, planner, planner.plan(survey, redone, idle=idle), changes, redone)


def _palette_target(model: Model, target: object) -> Opset:
    opset = parse_target(target)
    if FORMS.get(opset.name) is None:
        raise ConfigError(f"target {opset.target} can hold no palettes; use iOS16 or later")
    model.refuse_moving_down(opset)
    return opset


def _move(model: Model, target: Opset) -> list[Moved]:
    before = {label: opset for label, opset in model.functions() if opset_of(opset).spec < target.spec}
    changes = model.move(target)
    moved = [
        Moved(label, "", "", f"{opset} ({opset_of(opset).target}) to {target.name} ({target.target})")
        for label, opset in before.items()
    ]
    return moved + [Moved(c.function, c.op_name, c.op_type, c.what) for c in changes]


def carry_out(
    prepared: Prepared,
    folder: Path,
    report: Report,
    *,
    pool: Workers,
    progress: Progress,
    rename: bool = False,
    clustered: Clustered | None = None,
    ready: Mapping[WeightId, Encoded | Declined] | None = None,
) -> None:
    """Write the new package into the empty ``folder`` and complete ``report``.

    ``rename``: palettes are called as coremltools calls them, not as the constants they replace. ``clustered``: where
    palettes are kept. ``ready``: palettes that were made before. Raises PlanError under ``strict`` for weights whose
    values rule a palette out, and where none got one.
    """
    palettes = PlannedPalettes(
        prepared.model, prepared.plan, pool=pool, progress=progress, clustered=clustered, rename=rename, ready=ready
    )
    done = palettes.write(folder)
    if prepared.planner.strict:
        refuse_declined(done.results)
    declined = {weight for weight, result in done.results.items() if isinstance(result, Declined)}
    if any(old.weight.id in declined for old in prepared.redone):
        prepared = prepared.keeping(declined)
        plan_anew(report, prepared.plan, prepared.moved)
    complete(report, prepared.plan, done)
    if clustered is not None:
        report.notes.append(_taken(done, clustered))
    if prepared.planner.strict and not report.palettized:
        raise nothing_to_do(weight.reason for weight in report.weights)
    tell(report, prepared.plan, prepared.redone)
    report.bytes_after = folder_nbytes(folder)


def _taken(done: Rewritten, clustered: Clustered) -> str:
    """How many palettes a resumed run did not have to make."""
    made = [result for result in done.results.values() if not isinstance(result, Declined)]
    kept = sum(result.kept for result in made)
    return f"{kept} of {format_count(len(made), 'palette')} taken from {clustered.folder}, where they were kept"


def nothing_to_do(reasons: Iterable[str]) -> PlanError:
    """Under ``strict``, of a run that palettizes nothing. ``reasons``: of every constant above the threshold."""
    told = [f"{reason} ({count}x)" for reason, count in Counter(reasons).most_common(3)]
    return PlanError(f"strict: nothing is palettized: {'; '.join(told) or 'no constant is above the threshold'}")


def refuse_declined(results: Mapping[WeightId, object]) -> None:
    """Raise PlanError for weights whose values rule out what was asked for."""
    unmet = [f"{w.key!r}: {r.reason}" for w, r in results.items() if isinstance(r, Declined) and r.unmet]
    if unmet:
        count = format_count(len(unmet), "weight")
        raise PlanError(f"strict: {count} cannot be palettized as asked: {format_first(unmet)}")
