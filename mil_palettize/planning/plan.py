"""What will be done to each weight, and why not: decided before a value is read or a byte written."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mil_palettize.errors import PlanError
from mil_palettize.expressions.weight_expr import packed_nbytes
from mil_palettize.program.forms import FORMS, Form, refusal
from mil_palettize.program.roles import is_weight_input
from mil_palettize.program.weight import Weight
from mil_palettize.request.normalised import PaletteRequest, Requests, check_op_types, near_names
from mil_palettize.request.precedence import Resolved, resolve

SELECTIONS = ("weights", "all")
ITEMSIZE = {"fp16": 2, "fp32": 4}
SCALE_WARNING = (
    "a scale for each channel, in an op after the table: loading such a package on the Neural Engine of macOS 26 has "
    "been reported to crash (coremltools pull request 2688); scale='fold' writes a table for each channel instead"
)


@dataclass(frozen=True)
class WeightPlan:
    """One palette. ``group_size``: None for one LUT per tensor. ``axis``: of the groups and of the vectors, None when
    there are neither. ``cluster_dim``: elements of a vector, 1 for scalars. ``scale_axis``: of a scale for each
    channel, None without one. ``lut_dtype``: of a quantized table. ``spread_axis``: along which there may be a table
    for each channel instead, where one table cannot hold a weight without loss (``unique``)."""

    mode: str
    nbits: int | None
    allowed_nbits: tuple[int, ...]
    axis: int | None
    group_size: int | None
    lut_function: Callable[..., Any] | None = None
    cluster_dim: int = 1
    scale_axis: int | None = None
    lut_dtype: str | None = None
    spread_axis: int | None = None

    @property
    def granularity(self) -> str:
        return "per_tensor" if self.group_size is None else "per_grouped_channel"


@dataclass(frozen=True)
class Decision:
    """What becomes of a weight. ``plan`` None: left alone for ``reason``. ``unmet``: something that was asked for
    is not done, or done otherwise than asked (an error under ``strict``). ``ineligible``: no palette can be made of
    it. ``notes``: what a person should know."""

    weight: Weight
    plan: WeightPlan | None = None
    reason: str = ""
    unmet: bool = False
    ineligible: bool = False
    notes: tuple[str, ...] = ()


@dataclass
class Plan:
    """Decisions in program order; ``small``: constants at or below the threshold, which are not among them."""

    decisions: list[Decision] = field(default_factory=list)
    small: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def palettizes(self) -> bool:
        return any(d.plan is not None for d in self.decisions)


def as_dense(weight: Weight) -> Weight:
    """A compressed constant as it will be when its values stand for themselves."""
    nbytes = weight.size * ITEMSIZE.get(weight.dtype, 0)
    return replace(weight, form="const", obstacle="", joint="", stored=weight.size, stored_nbytes=nbytes, nbytes=nbytes)


def make_plan(
    weights: Iterable[Weight],
    requests: Requests,
    *,
    select: str,
    strict: bool,
    opset_after: dict[str, str],
    op_types: set[str],
    op_names: set[tuple[str, str]],
) -> Plan:
    """Decide for every constant.

    ``opset_after``: opset a function's opset will be when written (``{"CoreML5": "CoreML6"}``); ``op_names``:
    (function, op name) of every op. Raises ConfigError for unknown op types, PlanError for a palette the opset
    cannot hold and, under ``strict``, for the first things asked for that will not be done.
    """
    plan = Plan(notes=check_op_types(requests, op_types))
    named: dict[str, list[Decision]] = defaultdict(list)
    for weight in weights:
        form = FORMS.get(opset_after.get(weight.opset, weight.opset))
        if requests.joint and form is not None and not form.chains:
            raise PlanError(f"function {weight.function!r} ({weight.opset}): {refusal(form, None, False, joint=True)}")
        resolved = resolve(weight, requests)
        threshold = resolved.request.weight_threshold if resolved.request else requests.threshold
        if weight.size <= threshold and resolved.level != "constant":
            plan.small += 1
            continue
        plan.decisions.append(_decide(weight, resolved, form, select, requests.joint))
        for key in resolved.keys:
            named[key].append(plan.decisions[-1])
    unmatched = _unmatched_names(requests, named, op_names, plan)
    plan.notes += unmatched
    if strict:
        _refuse_unmet(plan, unmatched)
    return plan


def _decide(weight: Weight, resolved: Resolved, form: Form | None, select: str, joint: bool) -> Decision:
    request = resolved.request
    notes = (resolved.note,) if resolved.note else ()
    if request is None:
        return Decision(weight, reason=f"left alone by {resolved.by}", notes=notes)
    reason = _ineligible(weight, resolved, form, select, joint)
    if reason:
        return Decision(weight, reason=reason, unmet=resolved.level == "constant", ineligible=True, notes=notes)
    assert form is not None
    refused = refusal(
        form,
        request.nbits,
        request.grouped or request.scale == "fold",
        request.cluster_dim > 1,
        scaled=request.scale == "op",
        quantized=request.lut_dtype is not None,
    )
    if refused:
        raise PlanError(f"weight {weight.key!r} ({weight.opset}): {refused}")
    plan, note = _palette(weight, request, form)
    if request.cluster_dim > 1:
        plan, why = _with_vectors(weight, request, plan)
        if why and request.mode == "custom":  # its function makes vectors
            return Decision(weight, reason=why, unmet=True, notes=notes)
        note = _joined(note, f"{why}: a palette of scalars instead" if why else "")
    if request.scale == "fold" and request.grouped and request.group_size != 1:
        notes = (*notes, f"groups of {request.group_size} are not made: scale='fold' writes a table for each channel")
    if request.scale == "op":
        plan, why = _with_scale(weight, plan)
        note = _joined(note, why)
        notes = (*notes, SCALE_WARNING) if plan.scale_axis is not None else notes
    decision = Decision(weight, plan, unmet=bool(note), notes=(*notes, note) if note else notes)
    if request.nbits is not None:
        after = palette_nbytes(weight, plan, request.nbits)
        if after >= weight.nbytes:
            return replace(decision, plan=None, reason=not_smaller(after, weight.nbytes))
    return decision


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _ineligible(weight: Weight, resolved: Resolved, form: Form | None, select: str, joint: bool) -> str:
    """Why the weight is not a candidate, "" when it is one."""
    assert resolved.request is not None
    if weight.joint and not joint:
        return f"{weight.obstacle}; joint_compression palettizes what is left of it"
    if weight.obstacle and not weight.joint:
        return weight.obstacle + _way_out(weight)
    if weight.size <= resolved.request.weight_threshold:
        return f"{weight.size:,} elements, not above weight_threshold={resolved.request.weight_threshold:,}"
    if len(weight.shape) < 2:
        return f"rank {len(weight.shape)}; palettes are made of weights of rank 2 and more"
    if not weight.consumers:
        return "nothing reads it"
    if form is None:
        why = "can hold no palettes" if weight.opset in FORMS else "is not known to this version"
        return f"opset {weight.opset} {why}"
    if select == "weights" and not resolved.explicit and not _acts_as_weight(weight):
        readers = ", ".join(dict.fromkeys(f"{c.op_type} {c.input_name!r}" for c in weight.consumers))
        return f"does not act as a weight (read by {readers}); name it or select 'all' to take it"
    return ""


def _way_out(weight: Weight) -> str:
    if weight.form.startswith("constexpr_lut_"):
        return "; redo (--redo) palettizes it again"
    return "; decompress it first" if weight.form.startswith("constexpr_") else ""


def _acts_as_weight(weight: Weight) -> bool:
    return any(is_weight_input(c.op_type, c.input_name) for c in weight.consumers)


def _palette(weight: Weight, request: PaletteRequest, form: Form) -> tuple[WeightPlan, str]:
    """The plan, and where it is not what was asked for, a note."""
    lut_dtype = None if weight.joint == "scaled" else request.lut_dtype  # its table holds integers anyway
    per_tensor = WeightPlan(
        request.mode, request.nbits, form.nbits, None, None, request.lut_function, lut_dtype=lut_dtype
    )
    if request.scale == "fold" and weight.joint != "scaled":
        axis, note = _output_axis(weight)
        if axis is None:
            return per_tensor, f"{note}: no scales"
        return replace(per_tensor, axis=axis, group_size=1), ""
    if request.mode == "unique" and form.grouped and request.cluster_dim == 1 and not weight.joint:
        per_tensor = replace(per_tensor, spread_axis=_output_axis(weight)[0])
    if not request.grouped:
        return per_tensor, ""
    axis, note = _channel_axis(weight, request)
    if axis is None:
        return per_tensor, f"{note}: one palette per tensor instead of groups of {request.group_size}"
    channels = weight.shape[axis]
    size = request.group_size or channels
    group_size = nearest_divisor(channels, size)
    note = f"group_size {size} does not divide the {channels} channels of axis {axis}"
    if group_size is None:
        return per_tensor, f"{note} and no divisor lies in {size / 2:g} to {2 * size}: one palette per tensor"
    grouped = replace(per_tensor, axis=axis, group_size=group_size)
    return grouped, "" if group_size == size else f"{note}: groups of {group_size} instead"


def _with_vectors(weight: Weight, request: PaletteRequest, plan: WeightPlan) -> tuple[WeightPlan, str]:
    """``plan`` by vectors along the channel axis; where that cannot be, ``plan`` itself and why."""
    dim = request.cluster_dim
    if weight.joint:
        return plan, f"no vectors of {dim} of values that are {weight.joint}"
    axis, why = (plan.axis, "") if plan.axis is not None else _channel_axis(weight, request)
    if axis is None:
        return plan, f"no vectors of {dim}: {why}"
    size = plan.group_size or weight.shape[axis]
    if size % dim:
        return plan, f"cluster_dim {dim} does not divide the {size} channels of axis {axis} in one look-up table"
    for consumer in weight.consumers:
        channels = consumer.channels_of_group(axis, weight.shape[axis])
        if channels % dim:
            return plan, f"cluster_dim {dim} does not divide the {channels} channels of a group of {consumer}"
    return replace(plan, axis=axis, cluster_dim=dim), ""


def _with_scale(weight: Weight, plan: WeightPlan) -> tuple[WeightPlan, str]:
    """``plan`` with a scale for each output channel; where that cannot be, ``plan`` itself and why."""
    if weight.joint:
        return plan, f"no scales for values that are {weight.joint}"
    if plan.cluster_dim > 1:
        return plan, "no scales for palettes of vectors"
    axis, why = _output_axis(weight)
    return (plan, f"no scales: {why}") if axis is None else (replace(plan, scale_axis=axis), "")


def _channel_axis(weight: Weight, request: PaletteRequest) -> tuple[int | None, str]:
    """The axis of the groups and vectors, None and why where it is not known."""
    rank = len(weight.shape)
    if request.channel_axis is not None:
        if -rank <= request.channel_axis < rank:
            return request.channel_axis % rank, ""
        return None, f"channel_axis {request.channel_axis} is outside its {rank} axes"
    return _output_axis(weight)


def _output_axis(weight: Weight) -> tuple[int | None, str]:
    """The axis of the output channels of the ops that read the weight."""
    readers = [c for c in weight.consumers if is_weight_input(c.op_type, c.input_name)] or weight.consumers
    axes = {c.channel_axis for c in readers}
    if len(axes) == 1 and None not in axes:
        return axes.pop(), ""
    if None in axes:
        return None, "its channel axis cannot be followed back from the op that reads it (give channel_axis)"
    wanted = ", ".join(dict.fromkeys(f"{c.op_type} axis {c.channel_axis}" for c in readers))
    return None, f"the ops that read it want different channel axes ({wanted}; give channel_axis)"


def nearest_divisor(channels: int, size: int) -> int | None:
    """``size`` if it divides ``channels``, else the nearest divisor within [size/2, 2*size], the smaller of two."""
    near = [d for d in range(max(1, -(-size // 2)), min(channels, 2 * size) + 1) if channels % d == 0]
    return min(near, key=lambda d: (abs(d - size), d), default=None)


def palette_nbytes(weight: Weight, plan: WeightPlan, nbits: int) -> int:
    """Bytes of everything a weight is stored as with a palette of ``nbits``."""
    itemsize = ITEMSIZE[weight.dtype]
    groups = 1 if plan.axis is None or plan.group_size is None else weight.shape[plan.axis] // plan.group_size
    entries = groups * (1 << nbits) * plan.cluster_dim
    table = (
        entries * itemsize if plan.lut_dtype is None else entries + groups * (itemsize + (plan.lut_dtype == "uint8"))
    )
    if weight.joint:
        kept = weight.nbytes - weight.stored_nbytes
        table = _integer_tables(weight, plan) << nbits if weight.joint == "scaled" else table
        return kept + packed_nbytes(weight.stored, nbits) + table
    scales = 0 if plan.scale_axis is None else weight.shape[plan.scale_axis] * itemsize
    return packed_nbytes(weight.size // plan.cluster_dim, nbits) + table + scales


def _integer_tables(weight: Weight, plan: WeightPlan) -> int:
    """How many tables of integers are stored: where they are scaled first, one for each scale or group."""
    form = FORMS[weight.opset]
    groups = [1] * len(weight.shape)
    if plan.axis is not None and plan.group_size is not None:
        groups[plan.axis] = weight.shape[plan.axis] // plan.group_size
    if form is not None and form.tables_scaled_first:
        groups = [math.lcm(own, blocks) for own, blocks in zip(groups, weight.blocks, strict=True)]
    return math.prod(groups)


def not_smaller(after: int, before: int) -> str:
    return f"its palette would take {after:,} bytes, the weight takes {before:,}"


def _unmatched_names(
    requests: Requests, named: Mapping[str, list[Decision]], op_names: set[tuple[str, str]], plan: Plan
) -> list[str]:
    """Warnings for entries of ``op_name_configs`` that nothing came of. ``named``: the decisions each spoke in."""
    names = {name for _, name in op_names} | {d.weight.name for d in plan.decisions}
    labels = {label for label, _ in op_names}
    qualified = {f"{short}/{name}" for label, name in op_names for short in (label, label.rpartition("/")[2])}
    qualified |= {d.weight.key for d in plan.decisions}
    notes = []
    for key in requests.by_name:
        if key in named:
            # What is named itself says so in its own decision.
            if all(d.ineligible and not d.unmet for d in named[key]):
                notes.append(
                    f"op_name_configs[{key!r}]: no palette can be made of what it reads ({_reasons(named[key])})"
                )
            continue
        if key in names or key in qualified:
            if requests.by_name[key] is not None:
                notes.append(f"op_name_configs[{key!r}]: reads no constant above its weight_threshold")
            continue
        candidates = qualified if "/" in key else names
        near = near_names(key, candidates)
        notes.append(f"op_name_configs[{key!r}] matches nothing in function {', '.join(sorted(labels))}{near}")
    return notes


def _reasons(decisions: list[Decision]) -> str:
    return ", ".join(f"{d.weight.key!r}: {d.reason}" for d in decisions)


def _refuse_unmet(plan: Plan, unmatched: list[str]) -> None:
    unmet = [f"{d.weight.key!r}: {d.reason or d.notes[-1]}" for d in plan.decisions if d.unmet] + unmatched
    if unmet:
        more = f" (and {len(unmet) - 3} more)" if len(unmet) > 3 else ""
        raise PlanError(f"strict: {len(unmet)} requests cannot be met as asked: {'; '.join(unmet[:3])}{more}")
