"""The verbs: open, plan, encode, write, report."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mil_palettize.config import OptimizationConfig, Requests, normalise
from mil_palettize.encode import Declined
from mil_palettize.errors import ConfigError, PlanError
from mil_palettize.forms import FIRST_WITH_PALETTES, FORMS
from mil_palettize.package.replace import check_destination, recover, replacing
from mil_palettize.parallel import Workers
from mil_palettize.plan import SELECTIONS, Plan, make_plan
from mil_palettize.program.model import Model
from mil_palettize.program.opset import opset_of, parse_target
from mil_palettize.progress import ProgressEvent, make_progress
from mil_palettize.report import Moved, Report
from mil_palettize.rewrite import Rewriter, Rewritten
from mil_palettize.summary import complete, planned_report
from mil_palettize.verify import verify_package

PathLike = str | os.PathLike[str]


@dataclass
class _Prepared:
    """A model moved as far as it has to be, and what will be done to it."""

    plan: Plan
    moved: list[Moved]


def palettize_package(
    source: PathLike,
    destination: PathLike | None,
    config: OptimizationConfig,
    *,
    target: object = None,
    select: str = "weights",
    strict: bool = False,
    verify: bool = False,
    overwrite: bool = False,
    workers: int | None = None,
    progress: bool | Callable[[ProgressEvent], object] | None = None,
    dry_run: bool = False,
) -> Report:
    """Palettize the ML Programs of the package at ``source`` into ``destination``.

    ``config``: coremltools' ``OptimizationConfig``. ``target``: opset to move up to (``"iOS18"`` or a
    ``coremltools.target``). ``select``: "weights", or "all" constants above the threshold as coremltools does.
    ``strict``: anything asked for that cannot be done as asked is an error. ``verify``: decode what was written
    before it takes its place. ``workers``: threads, None for all processors; the result does not depend on it.
    ``progress``: True for a bar, or a function of :class:`ProgressEvent`. ``dry_run``: plan and report only.

    ``destination`` may be ``source`` with ``overwrite``. Raises ConfigError for a wrong request, PackageError
    (BlobError) for a package that cannot be read or written, PlanError for what the model or target does not
    allow, AlgorithmError for a wrong ``lut_function``, VerifyError; nothing is written then.
    """
    started = time.perf_counter()
    requests = normalise(config)
    if select not in SELECTIONS:
        raise ConfigError(f"select is {select!r}, allowed are {SELECTIONS}")
    if destination is None and not dry_run:
        raise ConfigError("destination is missing; only a dry run goes without one")
    with Workers(workers) as pool:
        recovered = recover(Path(destination)) if destination is not None and not dry_run else None
        with Model.open(source) as model:
            if destination is not None:
                check_destination(model.package.path, Path(destination), overwrite or dry_run)
            prepared = _prepare(model, requests, target, select, strict)
            goal = None if destination is None else os.fspath(destination)
            report = planned_report(os.fspath(source), goal, model.package.nbytes(), prepared.plan, prepared.moved)
            report.notes += [recovered] if recovered else []
            if dry_run or destination is None:
                report.dry_run = True
                return report
            _write(model, prepared, report, Path(destination), strict, verify, overwrite, pool, progress)
    report.seconds = time.perf_counter() - started
    return report


def _prepare(model: Model, requests: Requests, target: object, select: str, strict: bool) -> _Prepared:
    """Plan, moving the model in memory: to ``target``, or out of an opset that can hold no palette."""
    moved: list[Moved] = []
    after: dict[str, str] = {}
    if target is not None:
        opset = parse_target(target)
        if FORMS.get(opset.name) is None:
            raise ConfigError(f"target {opset.target} can hold no palettes; use iOS16 or later")
        model.refuse_moving_down(opset)
        moved = _move(model, opset.name)
    else:
        after = {name: FIRST_WITH_PALETTES for name, form in FORMS.items() if form is None}
    plan = _plan(model, requests, select, strict, after)
    if any(d.plan is not None and d.weight.opset in after for d in plan.decisions):
        moved = _move(model, FIRST_WITH_PALETTES)
        plan = _plan(model, requests, select, strict, {})
    return _Prepared(plan, moved)


def _plan(model: Model, requests: Requests, select: str, strict: bool, after: dict[str, str]) -> Plan:
    survey = model.survey()
    return make_plan(
        [site.weight for site in survey.sites],
        requests,
        select=select,
        strict=strict,
        opset_after=after,
        op_types=survey.op_types,
        op_names=survey.op_names,
    )


def _move(model: Model, opset_name: str) -> list[Moved]:
    target = parse_target(opset_name)
    before = {label: opset for label, opset in model.functions() if opset_of(opset).spec < target.spec}
    changes = model.move(target)
    moved = [
        Moved(label, "", "", f"{opset} ({opset_of(opset).target}) to {target.name} ({target.target})")
        for label, opset in before.items()
    ]
    return moved + [Moved(c.function, c.op_name, c.op_type, c.what) for c in changes]


def _write(
    model: Model,
    prepared: _Prepared,
    report: Report,
    destination: Path,
    strict: bool,
    verify: bool,
    overwrite: bool,
    pool: Workers,
    progress: bool | Callable[[ProgressEvent], object] | None,
) -> None:
    bar = make_progress(progress)
    planned = [d for d in prepared.plan.decisions if d.plan is not None]
    bar.start(len(planned), sum(d.weight.nbytes for d in planned))
    try:
        with replacing(destination, overwrite=overwrite, needed_bytes=report.bytes_after) as staging:
            done = Rewriter(model, prepared.plan, retype=bool(prepared.moved), progress=bar).write(staging, pool)
            complete(report, prepared.plan, done)
            if strict:
                _refuse_declined(done)
            report.bytes_after = sum(f.stat().st_size for f in staging.rglob("*") if f.is_file())
            if verify:
                verify_package(model.package.path, staging, report)
                report.verified = True
    finally:
        bar.close()


def _refuse_declined(done: Rewritten) -> None:
    unmet = [f"{w.key!r}: {r.reason}" for w, r in done.results.items() if isinstance(r, Declined) and r.unmet]
    if unmet:
        raise PlanError(f"strict: {len(unmet)} weights cannot be palettized as asked: {'; '.join(unmet[:3])}")
