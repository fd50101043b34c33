"""A plan and what came of it to a :class:`Report`."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict

from mil_palettize.encoding.results import Declined, Figures
from mil_palettize.planning.plan import Decision, Plan, palette_nbytes
from mil_palettize.reports.report import COUNT_UNKNOWN, Moved, Report, WeightReport
from mil_palettize.rewriting.rewrite import Rewritten

_SPLIT = "stored once with a constant that is planned otherwise: stored apart now"


def planned_report(
    source: str, destination: str | None, nbytes: int, plan: Plan, moved: list[Moved], *, dry_run: bool = False
) -> Report:
    """The report of a plan: sizes as far as they do not depend on values, no errors yet."""
    return Report(
        source=source,
        destination=destination,
        bytes_before=nbytes,
        bytes_after=nbytes - _saving(plan),
        weights=[_planned(decision) for decision in plan.decisions],
        moved=moved,
        notes=list(plan.notes),
        small=plan.small,
        dry_run=dry_run,
    )


def complete(report: Report, plan: Plan, done: Rewritten) -> None:
    """Fill in what was found while writing."""
    report.weights = [
        _finished(weight, decision, done) for weight, decision in zip(report.weights, plan.decisions, strict=True)
    ]
    report.dropped_records = done.dropped_records
    if done.dropped_records is None:
        report.notes.append(COUNT_UNKNOWN)


def _planned(decision: Decision) -> WeightReport:
    weight, plan = decision.weight, decision.plan
    return WeightReport(
        name=weight.name,
        function=weight.function,
        shape=weight.shape,
        dtype=weight.dtype,
        consumers=[(c.op_type, c.input_name) for c in weight.consumers],
        status="skipped" if plan is None else "palettized",
        reason=decision.reason,
        mode=plan.mode if plan else None,
        nbits=plan.nbits if plan else None,
        granularity=plan.granularity if plan else None,
        group_size=plan.group_size if plan else None,
        channel_axis=plan.axis if plan else None,
        cluster_dim=plan.cluster_dim if plan else None,
        scale_axis=plan.scale_axis if plan else None,
        lut_dtype=plan.lut_dtype if plan else None,
        joint=weight.joint if plan else "",
        bytes_before=weight.nbytes,
        bytes_after=_bytes_after(decision),
        snr_db=None,
        squared_error=None,
        seconds=0.0,
        notes=decision.notes,
    )


def _bytes_after(decision: Decision) -> int | None:
    if decision.plan is None:
        return decision.weight.nbytes
    if decision.plan.nbits is None:
        return None
    return palette_nbytes(decision.weight, decision.plan, decision.plan.nbits)


def _saving(plan: Plan) -> int:
    """Bytes that are certain to be saved: a record goes when all its constants get palettes of known size."""
    by_record: dict[object, list[Decision]] = defaultdict(list)
    for decision in plan.decisions:
        by_record[decision.weight.storage or decision.weight].append(decision)
    saving = 0
    for decisions in by_record.values():
        sizes = {(d.plan, d.weight.shape): _bytes_after(d) for d in decisions if d.plan is not None}
        if len(decisions) == sum(d.plan is not None for d in decisions):
            saving += decisions[0].weight.nbytes
        saving -= sum(decisions[0].weight.nbytes if size is None else size for size in sizes.values())
    return saving


def _finished(report: WeightReport, decision: Decision, done: Rewritten) -> WeightReport:
    if decision.plan is None:
        return report
    result = done.results[decision.weight]
    if isinstance(result, Declined):
        return _planned(dataclasses.replace(decision, plan=None, reason=result.reason))
    notes = (*report.notes, _SPLIT) if decision.weight in done.splits else report.notes
    return _encoded(dataclasses.replace(report, notes=notes), result)


def _encoded(report: WeightReport, figures: Figures) -> WeightReport:
    plan = figures.plan
    snr = _snr_db(figures.signal, figures.sse)
    more = (figures.note, _warning(plan.mode) if snr < 0 else "")
    return dataclasses.replace(
        report,
        nbits=figures.nbits,
        granularity=plan.granularity,
        group_size=plan.group_size,
        channel_axis=plan.axis,
        notes=(*report.notes, *filter(None, more)),
        bytes_after=figures.nbytes,
        snr_db=snr,
        squared_error=figures.sse,
        seconds=figures.seconds,
        digest=figures.digest,
    )


def _warning(mode: str) -> str:
    """Of a palette whose error is larger than the weight itself."""
    instead = "use mode kmeans" if mode == "uniform" else "use more bits, or leave this weight alone"
    return f"warning: {mode} is worse here than zeros would be (an SNR below 0 dB): {instead}"


def _snr_db(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * (math.log10(signal) - math.log10(noise)) if signal > 0 else -math.inf
