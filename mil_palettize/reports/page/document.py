"""A comparison of two models as one HTML page that needs nothing else: no script, font or picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from mil_palettize.reports.compared_models import MADE_UP, ComparedModels
from mil_palettize.reports.compared_parts import OpComparison, OutputComparison, WeightComparison
from mil_palettize.reports.page.attributed import attributed, shares_along
from mil_palettize.reports.page.charts import CHART_STYLE, domain, drawable, escaped, histogram, snr_chart, step_chart
from mil_palettize.reports.page.frame import base_name, html_page, name_shown, origin, section, tile, with_unit
from mil_palettize.reports.page.pictured import PICTURE_STYLE, pictured
from mil_palettize.reports.shown_figures import STEPS, decibels_text, loss, steps_row
from mil_palettize.text import format_bytes, format_count

_WORST_OPS = 10
_WEIGHTS_SHOWN = 40  # the others are folded away
_CLOSE_DB, _NOTICEABLE_DB = 40, 20  # errors of 1 % and 10 % of the signal
_CLOSE_SHARE, _NOTICEABLE_SHARE = 0.99, 0.9  # of labels that agree
_LABELS_LEGEND = f" Of labels, {_CLOSE_SHARE:.0%} and {_NOTICEABLE_SHARE:.0%} must agree."
_SHORTEST_BAR = 40  # decibels that a full bar stands for, at least


def page(comparison: ComparedModels, command: str = "") -> str:
    """The whole page, to be saved as UTF-8. ``command``: that makes it again, "" where none is known."""
    title = f"{base_name(comparison.original)} → {base_name(comparison.palettized)}"
    sections = [_header(comparison), outputs_section(comparison.outputs)]
    sections += [pictured(comparison.pictures, comparison.detections), _weights(comparison), _ops(comparison)]
    sections += [attributed(comparison.attributions), _histograms(comparison.weights)]
    sections.append(origin(command))
    return html_page(title, sections, CHART_STYLE + PICTURE_STYLE)


def _header(comparison: ComparedModels) -> str:
    original, palettized = (name_shown(base_name(path)) for path in (comparison.original, comparison.palettized))
    tiles = [_size_tile(comparison), _worst_tile(comparison.outputs), _inputs_tile(comparison), _run_tile(comparison)]
    return (
        f'<header>\n<h1>{original} <span class="arrow">→</span> {palettized}</h1>\n'
        f'<ul class="tiles" role="list">{"".join(tiles)}</ul>\n{_notes(comparison)}</header>\n'
    )


def _size_tile(comparison: ComparedModels) -> str:
    before, after = comparison.bytes_before, comparison.bytes_after
    detail = f"{format_bytes(before)} → {format_bytes(after)}" if before else "of the package"
    if before == after or not (before and after):
        return tile("Size", "the same" if before == after else format_bytes(after), detail)
    ratio = f"{before / after:.2f}× smaller" if after < before else f"{after / before:.2f}× larger"
    return tile("Size", ratio, detail)


def _worst_tile(outputs: Sequence[OutputComparison]) -> str:
    compared = [output for output in outputs if output.figures is not None]
    labels = [output for output in outputs if output.agreement is not None]
    if compared:
        worst = min(compared, key=lambda output: loss(output.snr_db))
    elif labels:
        worst = min(labels, key=lambda output: output.agreement or 0)
    else:
        return ""
    return tile("Worst output" if len(outputs) > 1 else "Output", _headline(worst), name_shown(worst.name))


def _inputs_tile(comparison: ComparedModels) -> str:
    return tile("Inputs", format_count(comparison.samples, "sample"), escaped(comparison.inputs))


def _run_tile(comparison: ComparedModels) -> str:
    return tile("Computed in", escaped(comparison.precision), f"by {escaped(comparison.runtime)}")


def _notes(comparison: ComparedModels) -> str:
    changes = [o.classes.sentence(o.name) for o in comparison.outputs if o.classes is not None]
    told = [*filter(None, changes), *(one.sentence() for one in (comparison.greedy, comparison.detected) if one)]
    notes = [escaped(note) for note in (*told, *comparison.notes) if note != MADE_UP]
    warning = "".join(f"<p><strong>Warning:</strong> {escaped(told)}.</p>" for told in comparison.warnings)
    if MADE_UP in comparison.notes:
        warning += f"<p><strong>{MADE_UP}</strong></p>"
    if not (warning or notes):
        return ""
    listed = f"<ul>{''.join(f'<li>{note}</li>' for note in notes)}</ul>" if notes else ""
    return f'<aside class="{"warning" if warning else "notes"}" aria-label="Notes">{warning}{listed}</aside>\n'


def outputs_section(outputs: Sequence[OutputComparison]) -> str:
    """All figures of all outputs."""
    if not outputs:
        return section("Outputs", "<p>None were compared.</p>")
    labels = any(output.figures is None and output.agreement is not None for output in outputs)
    legend = (
        '<p class="muted">SNR: signal to error, over all samples. '
        f'<span class="chip close">close</span> from {_CLOSE_DB} dB on, an error of 1 %; '
        f'<span class="chip noticeable">noticeable</span> from {_NOTICEABLE_DB} dB on, 10 %; '
        f'<span class="chip far">far</span> below.{_LABELS_LEGEND if labels else ""}</p>'
    )
    return section("Outputs", f'{legend}<div class="outputs">{"".join(map(_output, outputs))}</div>')


def _output(output: OutputComparison) -> str:
    kind, verdict = _verdict(output)
    facts = "".join(f"<div><dt>{what}</dt><dd>{figure}</dd></div>" for what, figure in _facts(output))
    return (
        f'<article class="card {kind}">'
        f'<h3>{name_shown(output.name)} <span class="muted">{_shape(output.shape)}</span></h3>'
        f'<p class="headline"><span class="large">{_headline(output)}</span> '
        f'<span class="chip {kind}">{verdict}</span></p>'
        f"{f'<dl>{facts}</dl>' if facts else ''}{_steps(output)}</article>\n"
    )


def _steps(output: OutputComparison) -> str:
    """How the SNR goes along a sequence; "" where there is no line to draw."""
    values = [step.snr_db for step in output.steps]
    if sum(map(math.isfinite, values)) < 2:
        return ""
    axis = '<figcaption class="axis"><span>first call</span><span>last call</span></figcaption>'
    return f'<figure class="course">{step_chart(values)}{axis}</figure>'


def _headline(output: OutputComparison) -> str:
    if output.nothing:
        return "nothing"
    if output.figures is not None:
        return with_unit(output.snr_db)
    return "not compared" if output.agreement is None else f"{_share(output.agreement)} agree"


def _verdict(output: OutputComparison) -> tuple[str, str]:
    """A class, and it in words: colour is never all there is."""
    if output.nothing:
        return "far", "nothing to compare"
    if output.figures is not None:
        return _snr_verdict(output.snr_db, output.figures.non_finite)
    if output.agreement is None:
        return "neutral", "neither numbers nor labels"
    kind = _band(output.agreement, 1, _CLOSE_SHARE, _NOTICEABLE_SHARE)
    return kind, kind


def _snr_verdict(snr_db: float, non_finite: int) -> tuple[str, str]:
    kind = _band(snr_db, math.inf, _CLOSE_DB, _NOTICEABLE_DB)
    if kind == "equal":
        return kind, "no difference"
    if non_finite:
        return kind, "not all finite"
    if not snr_db >= 0:
        return kind, "error above the signal"
    share = 100 * 10 ** (-snr_db / 20)
    figure = "below 0.01" if share < 0.01 else f"{share:.2g}" if share < 10 else f"{share:.0f}"
    return kind, f"{kind}: error {figure} %"


def _band(value: float, equal: float, close: float, noticeable: float) -> str:
    for kind, least in (("equal", equal), ("close", close), ("noticeable", noticeable)):
        if value >= least:
            return kind
    return "far"


def _facts(output: OutputComparison) -> Iterable[tuple[str, str]]:
    f = output.figures
    if f is None:
        return
    if f.original_non_finite:
        yield "not finite in the original", _of(f.original_non_finite, f.total)
    if f.huge:
        yield "huge and equal", _of(f.huge, f.total)
    if output.nothing:
        return
    if output.worst_snr_db is not None:
        yield "worst sample", with_unit(output.worst_snr_db)
    yield "PSNR", with_unit(f.psnr_db)
    yield "cosine", _number(f.cosine, ".6f", f.equal)
    yield "max difference", _number(f.max_abs, ".3g", f.equal)
    if f.non_finite:
        yield "not finite any more", _of(f.non_finite, f.total)
    if output.agreement is not None:
        yield "agreement", _share(output.agreement)
    if output.mean_iou is not None:
        yield "mean IoU", _share(output.mean_iou)
    if output.steps:
        yield from (zip((f"{name} call" for name in STEPS), steps_row(output), strict=True))
    yield from () if output.classes is None else output.classes.facts()


def _of(count: int, total: int) -> str:
    return f"{count} of {format_count(total, 'value')}"


def _weights(comparison: ComparedModels) -> str:
    changed = sorted(comparison.palettized_weights, key=lambda weight: loss(weight.snr_db))
    if not changed:
        return section("Weights", "<p>All are as they were.</p>") if comparison.weights else ""
    finite = [weight.snr_db for weight in changed if math.isfinite(weight.snr_db)]
    full = max(_SHORTEST_BAR, 10 * math.ceil(max(finite, default=0) / 10))
    rows = [_weight(weight, full) for weight in changed]
    others = len(comparison.weights) - len(changed)
    unchanged = f" {format_count(others, 'other')} did not change." if others else ""
    content = (
        f'<p class="muted">{format_count(len(changed), "weight")} changed, the worst first; bars from 0 to {full} dB.'
        f"{unchanged}</p>{_list(rows[:_WEIGHTS_SHOWN])}"
    )
    folded = rows[_WEIGHTS_SHOWN:]
    if folded:
        content += f"<details><summary>{len(folded)} more</summary>{_list(folded)}</details>"
    return section("Weights", content)


def _weight(weight: WeightComparison, full: float) -> str:
    part = 1.0 if weight.snr_db == math.inf else max(0.0, weight.snr_db / full) if math.isfinite(weight.snr_db) else 0.0
    return (
        f'<li>{name_shown(weight.name)}<span class="bar"><i style="width:{part:.1%}"></i></span>'
        f"<b>{with_unit(weight.snr_db)}</b>"
        f"<span>{weight.bits:.2f} bits <small>of {weight.bits_before:.3g}</small></span>"
        f"<span>{format_bytes(weight.bytes_before)} → {format_bytes(weight.bytes_after)}</span></li>\n"
    )


def _list(rows: Sequence[str]) -> str:
    return f'<ol class="weights" role="list">\n{"".join(rows)}</ol>'


def _ops(comparison: ComparedModels) -> str:
    ops = comparison.ops
    if not ops:
        return ""
    differing = [i for i, op in enumerate(ops) if op.figures.snr_db != math.inf]
    worst = sorted(differing, key=lambda i: loss(ops[i].figures.snr_db, unknown=math.inf))[:_WORST_OPS]
    equal = f"{len(ops) - len(differing)} of them equal" if differing else "all equal"
    unmatched = f" {comparison.unmatched} that only one of them has are left out." if comparison.unmatched else ""
    summary = f'<p class="muted">{format_count(len(ops), "op")} that both models have, {equal}.{unmatched}</p>'
    return section("Along the network", summary + (_ops_chart(comparison, worst) if worst else ""))


def _ops_chart(comparison: ComparedModels, worst: Sequence[int]) -> str:
    ops = comparison.ops
    columns = ("", "Op and type", "Position", "SNR", "Max difference")
    header = "".join(f'<th scope="col">{column}</th>' for column in columns)
    rows = "".join(_op(rank, i + 1, ops[i]) for rank, i in enumerate(worst, start=1))
    shares = shares_along(ops, comparison.attributions)
    told = "; below: share of the error of each weight, where it is read" if shares else ""
    axis = f'<figcaption class="axis"><span>first op</span><span>SNR{told}</span><span>last op</span></figcaption>'
    return (
        f"<figure>{snr_chart(ops, worst)}{shares}{axis}</figure><h3>Lost most</h3>"
        f'<div class="scroll"><table><thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _op(rank: int, position: int, op: OpComparison) -> str:
    figures = op.figures
    return (
        f'<tr><td><span class="rank">{rank}</span></td>'
        f'<th scope="row">{name_shown(op.name)} <small>{escaped(op.kind)}</small></th>'
        f"<td>{position}</td><td>{with_unit(figures.snr_db)}</td>"
        f"<td>{'' if math.isnan(figures.max_abs) else _number(figures.max_abs, '.3g', figures.equal)}</td></tr>\n"
    )


def _histograms(weights: Sequence[WeightComparison]) -> str:
    drawn = sorted((weight for weight in weights if drawable(weight)), key=lambda weight: loss(weight.snr_db))
    if not drawn:
        return ""
    legend = '<p class="muted">Bars: values before. Ticks below: the values there are now.</p>'
    return section("Values of weights", f'{legend}<div class="cards">{"".join(map(_histogram, drawn))}</div>')


def _histogram(weight: WeightComparison) -> str:
    low, high = domain(weight)
    entries = f", {format_count(len(weight.entries), 'value')}" if weight.entries else ""
    return (
        f'<article class="card"><h3>{name_shown(weight.name)}</h3>'
        f'<p class="muted">{_shape(weight.shape)}, {weight.bits:.2f} bits{entries}, {with_unit(weight.snr_db)}</p>'
        f"<figure>{histogram(weight)}"
        f'<figcaption class="axis"><span>{low:.3g}</span><span>{high:.3g}</span></figcaption></figure></article>\n'
    )


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _number(value: float, spec: str, equal: bool) -> str:
    return format(value, spec) if math.isfinite(value) else decibels_text(math.inf if equal else -math.inf)


def _share(value: float) -> str:
    return f"{value:.2%}" if math.isfinite(value) else decibels_text(value)
