"""A plan and what came of it to a :class:`Report`."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.encoding.results import Declined, Figures, Rewritten
from mil_palettize.planning.plan import Decision, Plan
from mil_palettize.planning.preflight import device_notes
from mil_palettize.planning.sizes import palette_nbytes
from mil_palettize.program.weight import Weight
from mil_palettize.reports.decibels import decibels
from mil_palettize.reports.report import COUNT_UNKNOWN, Report
from mil_palettize.reports.weight_report import CalibrationReport, Moved, WeightReport

_BULK_LOSS = 10.0  # dB that most elements may have less than the whole weight; of a normal distribution they have 3
_SPLIT = "stored once with a constant that is planned otherwise: stored apart now"


def planned_report(
    source: str,
    destination: str | None,
    nbytes: int,
    plan: Plan,
    moved: list[Moved],
    *,
    stored: Mapping[Weight, int] | None = None,
    dry_run: bool = False,
) -> Report:
    """The report of a plan: sizes as far as they do not depend on values, no errors yet. ``stored``: bytes of what
    weights are stored as now, of those that are planned for as if they were dense."""
    return Report(
        source=source,
        destination=destination,
        bytes_before=nbytes,
        bytes_after=nbytes - _saving(plan, stored or {}),
        weights=[_planned(decision) for decision in plan.decisions],
        moved=moved,
        notes=_notes(plan),
        small=plan.small,
        small_nbytes=plan.small_nbytes,
        dry_run=dry_run,
    )


def plan_anew(report: Report, plan: Plan, moved: list[Moved]) -> None:
    """Make ``report`` that of another plan for the same model; its bytes stay."""
    report.weights = [_planned(decision) for decision in plan.decisions]
    report.moved = moved
    report.notes = _notes(plan)
    report.small, report.small_nbytes = plan.small, plan.small_nbytes


def _notes(plan: Plan) -> list[str]:
    return [*plan.notes, *device_notes(plan)]


def complete(report: Report, plan: Plan, done: Rewritten) -> None:
    """Fill in what was found while writing."""
    report.weights = [
        _finished(weight, decision, done) for weight, decision in zip(report.weights, plan.decisions, strict=True)
    ]
    report.dropped_records = done.dropped_records
    if done.dropped_records is None:
        report.notes.append(COUNT_UNKNOWN)


def _planned(decision: Decision) -> WeightReport:
    weight, specification = decision.weight, decision.specification
    return WeightReport(
        name=weight.name,
        function=weight.function,
        shape=weight.shape,
        dtype=weight.dtype,
        consumers=[(c.op_type, c.input_name) for c in weight.consumers],
        status="skipped" if specification is None else "palettized",
        reason=decision.reason,
        **_told(specification),
        joint=weight.joint if specification else "",
        block=weight.block,
        bytes_before=weight.nbytes,
        bytes_after=_bytes_after(decision),
        snr_db=None,
        squared_error=None,
        seconds=0.0,
        notes=decision.notes,
    )


def _told(specification: PaletteSpecification | None) -> dict[str, Any]:
    """The fields of a report that tell of a palette, None for each where there is none."""
    names = ("mode", "nbits", "granularity", "group_size", "cluster_dim", "scale_axis", "lut_dtype")
    told = {name: getattr(specification, name, None) for name in names}
    return told | {"channel_axis": specification.axis if specification else None}


def _bytes_after(decision: Decision) -> int | None:
    if decision.specification is None:
        return decision.weight.nbytes
    sparse_vectors = decision.weight.joint == "sparse" and decision.specification.cluster_dim > 1
    if decision.specification.nbits is None or sparse_vectors:  # values decide
        return None
    return palette_nbytes(decision.weight, decision.specification, decision.specification.nbits)


def _saving(plan: Plan, stored: Mapping[Weight, int]) -> int:
    """Bytes that are certain to be saved: a record goes when all its constants get palettes of known size."""
    by_record: dict[object, list[Decision]] = defaultdict(list)
    for decision in plan.decisions:
        by_record[decision.weight.storage or decision.weight].append(decision)
    saving = 0
    for decisions in by_record.values():
        now = stored.get(decisions[0].weight, decisions[0].weight.nbytes)
        planned = [d for d in decisions if d.specification is not None]
        sizes = {(d.specification, d.importance, d.weight.shape): _bytes_after(d) for d in planned}
        if len(decisions) == len(planned):
            saving += now
        saving -= sum(now if size is None else size for size in sizes.values())
    return saving


def _finished(report: WeightReport, decision: Decision, done: Rewritten) -> WeightReport:
    if decision.specification is None:
        return report
    result = done.results[decision.weight.id]
    if isinstance(result, Declined):
        return _planned(dataclasses.replace(decision, specification=None, reason=result.reason))
    notes = (*report.notes, _SPLIT) if decision.weight.id in done.splits else report.notes
    return _encoded(dataclasses.replace(report, notes=notes), result)


def _encoded(report: WeightReport, figures: Figures) -> WeightReport:
    specification = figures.specification
    snr = decibels(figures.signal, figures.sse)
    more = (figures.note, _warning(specification.mode) if snr < 0 else "", _bulk_warning(snr, figures))
    told, made = _told(specification) | {"nbits": figures.nbits}, figures.calibration
    return dataclasses.replace(
        report,
        **told,
        notes=(*report.notes, *filter(None, more)),
        bytes_after=figures.nbytes,
        snr_db=snr,
        squared_error=figures.sse,
        weighted_error=figures.weighted_error,
        seconds=figures.seconds,
        digest=figures.digest,
        calibration=None if made is None else CalibrationReport(**dataclasses.asdict(made)),
    )


def _warning(mode: str) -> str:
    """Of a palette whose error is larger than the weight itself."""
    instead = "use mode kmeans" if mode == "uniform" else "use more bits, or leave this weight alone"
    return f"warning: {mode} is worse here than zeros would be (an SNR below 0 dB): {instead}"


def _bulk_warning(snr: float, figures: Figures) -> str:
    """Of a palette whose entries are spent on few large elements, while most share the others."""
    if figures.bulk_db is None or snr - figures.bulk_db < _BULK_LOSS:
        return ""
    return (
        f"warning: heavy tails: nine tenths of the elements have an SNR of about {figures.bulk_db:.1f} dB, where the "
        f"whole weight has {snr:.1f}: few large elements decide its error, and outputs may be worse than it says; "
        "give groups (group_size), more bits, or calibrate"
    )
