"""What will be done to each weight, and why not: decided before a value is read or a byte written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.errors import PlanError
from mil_palettize.planning.importances import importance_of, refuse_unmatched, without_importance
from mil_palettize.planning.sizes import not_smaller, palette_nbytes
from mil_palettize.planning.specifier import specify
from mil_palettize.program.forms import FORMS, Form, refusal
from mil_palettize.program.weight import ITEMSIZE, Weight
from mil_palettize.request.importance import Importance
from mil_palettize.request.module_names import in_model, names_of
from mil_palettize.request.near_names import near_names
from mil_palettize.request.normalised import Requests, check_op_types
from mil_palettize.request.patterns import is_pattern
from mil_palettize.request.precedence import Resolved, resolve
from mil_palettize.text import format_count, format_first, format_some

Select = Literal["weights", "all"]
SELECTIONS: tuple[Select, ...] = get_args(Select)
ROTARY = (
    "cosines or sines, looked up by position (RoPE): at 4 bits they cost 1.2 dB in a test of one layer; name it or "
    "select 'all' to take it"
)
_MOST_NEAR = 10  # entries that match nothing for which near names are looked for: it takes a look at every name


@dataclass(frozen=True)
class Decision:
    """What becomes of a weight. ``specification`` None: left alone for ``reason``. ``unmet``: something that
    was asked for is not done, or done otherwise than asked (an error under ``strict``). ``ineligible``: no palette can
    be made of it. ``notes``: what a person should know. ``importance``: of its elements, None where all count the same
    or it is left alone."""

    weight: Weight
    specification: PaletteSpecification | None = None
    reason: str = ""
    unmet: bool = False
    ineligible: bool = False
    notes: tuple[str, ...] = ()
    importance: Importance | None = None


@dataclass
class Plan:
    """Decisions in program order; ``small``: constants at or below the threshold, which are not among them,
    ``small_nbytes``: stored for those of them that a lower one would take."""

    decisions: list[Decision] = field(default_factory=list)
    small: int = 0
    small_nbytes: int = 0
    notes: list[str] = field(default_factory=list)


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
    idle: Iterable[str] = (),
) -> Plan:
    """Decide for every constant.

    ``opset_after``: opset a function's opset will be when written (``{"CoreML5": "CoreML6"}``); ``op_names``:
    (function, name) of every op and of what it gives; ``idle``: options that have no effect, in sentences. Raises
    ConfigError for unknown op types, PlanError for a palette the opset cannot hold, for a pattern that matches nothing
    or a name that may mean several modules, for importance that belongs to no weight and, under ``strict``, for the
    first things asked for that will not be done.
    """
    weights = list(weights)
    requests = in_model(requests, names_of(weights, op_names))
    refuse_unmatched(requests, weights)
    plan = Plan(notes=check_op_types(requests, op_types))
    named: dict[str, list[Decision]] = defaultdict(list)
    small: dict[object, int] = {}  # bytes of each record, which weights may share
    for weight in weights:
        form = FORMS.get(opset_after.get(weight.opset, weight.opset))
        if requests.joint and form is not None and not form.chains:
            raise PlanError(f"function {weight.function!r} ({weight.opset}): {refusal(form, None, False, joint=True)}")
        resolved = resolve(weight, requests)
        found = importance_of(weight, requests)
        threshold = resolved.request.weight_threshold if resolved.request else requests.threshold
        if weight.size <= threshold and resolved.level != "constant":
            plan.small += 1
            if _only_small(weight, resolved, form, select, requests.joint):
                small[weight.storage or weight.id] = weight.nbytes
            if found is not None and found[1].asked:
                plan.notes.append(f"importance[{found[0]!r}] has no effect: {weight.key!r} is small and left alone")
            continue
        decision = _decide(weight, resolved, form, select, requests.joint)
        plan.decisions.append(_weighed(decision, *found) if found else decision)
        for key in resolved.keys:
            named[key].append(plan.decisions[-1])
    plan.small_nbytes = sum(small.values())
    plan.notes += [
        f"op_name_configs[{entry!r}] is taken for the module of {format_some(sorted(keys), 3)}"
        for entry, keys in requests.modules.items()
    ]
    idle = [*_unmatched_names(requests, named, op_names, plan), *requests.without_effect, *idle]
    if requests.joint and not any(weight.joint for weight in weights):
        idle.append("joint_compression has no effect: no weight is sparse or quantized")
    plan.notes += idle
    if strict:
        _refuse_unmet(plan, idle)
    return plan


def _decide(weight: Weight, resolved: Resolved, form: Form | None, select: str, joint: bool) -> Decision:
    request = resolved.request
    notes = (resolved.note,) if resolved.note else ()
    if request is None:
        return Decision(weight, reason=resolved.reason or f"left alone by {resolved.by}", notes=notes)
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
    specified = specify(weight, request, form)
    specification, unmet = specified.specification, specified.unmet
    if specification is None:
        return Decision(weight, reason=unmet, unmet=True, notes=notes)
    notes = (*notes, *specified.notes, unmet) if unmet else (*notes, *specified.notes)
    decision = Decision(weight, specification, unmet=bool(unmet), notes=notes)
    if request.nbits is not None:
        after = palette_nbytes(weight, specification, request.nbits)
        if after >= weight.nbytes:
            return replace(decision, specification=None, reason=not_smaller(after, weight.nbytes))
    return decision


def _weighed(decision: Decision, key: str, importance: Importance) -> Decision:
    """``decision`` with the ``importance`` that entry ``key`` gives its weight; a note where that has no effect."""
    told = f"importance[{key!r}] has no effect: "
    if decision.specification is None:
        left = (f"{told}the weight is left alone",) if importance.asked else ()
        return replace(decision, notes=(*decision.notes, *left))
    why = without_importance(decision.specification)
    if not why:
        return replace(decision, importance=importance)
    # The last note of what is unmet is the one that an error under ``strict`` shows.
    *others, last = decision.notes if decision.unmet else (*decision.notes, "")
    notes = (*others, "; ".join(part for part in (last, told + why) if part))
    return replace(decision, importance=importance, unmet=True, notes=notes)


def not_above(weight: Weight, threshold: int) -> str:
    """Why a small weight is left alone."""
    noun = "element" if weight.size == 1 else "elements"
    return f"{weight.size:,} {noun}, not above weight_threshold={threshold:,}"


def _ineligible(weight: Weight, resolved: Resolved, form: Form | None, select: str, joint: bool) -> str:
    """Why the weight is not a candidate, "" when it is one."""
    assert resolved.request is not None
    if weight.joint and not joint:
        return f"{weight.obstacle}; joint_compression palettizes what is left of it"
    if weight.obstacle and not weight.joint:
        return weight.obstacle + _way_out(weight)
    if weight.size <= resolved.request.weight_threshold:
        return not_above(weight, resolved.request.weight_threshold)
    if len(weight.shape) < 2:
        return f"rank {len(weight.shape)}; palettes are made of weights of rank 2 and more"
    if not weight.consumers:
        return "nothing reads it"
    if form is None:
        why = "can hold no palettes" if weight.opset in FORMS else "is not known to this version"
        return f"opset {weight.opset} {why}"
    if select == "weights" and not resolved.explicit and not weight.acts_as_weight:
        readers = ", ".join(dict.fromkeys(f"{c.op_type} {c.input_name!r}" for c in weight.consumers))
        return f"does not act as a weight (read by {readers}); name it or select 'all' to take it"
    if select == "weights" and not resolved.explicit and weight.is_rotary:
        return ROTARY
    return ""


def _only_small(weight: Weight, resolved: Resolved, form: Form | None, select: str, joint: bool) -> bool:
    """Whether nothing but the threshold rules a palette out for a small weight."""
    if resolved.request is None:
        return False
    request = replace(resolved.request, weight_threshold=0)
    return not _ineligible(weight, replace(resolved, request=request), form, select, joint)


def _way_out(weight: Weight) -> str:
    if weight.form.startswith("constexpr_lut_"):
        return "; redo (--redo) palettizes it again"
    return "; decompress it first" if weight.form.startswith("constexpr_") else ""


def _unmatched_names(
    requests: Requests, named: Mapping[str, list[Decision]], op_names: set[tuple[str, str]], plan: Plan
) -> list[str]:
    """Warnings for entries of ``op_name_configs`` that nothing came of. ``named``: the decisions each spoke in."""
    names = {name for _, name in op_names} | {d.weight.name for d in plan.decisions}
    functions, unknown = format_some(sorted({label for label, _ in op_names})), 0
    qualified = {f"{short}/{name}" for label, name in op_names for short in (label, label.rpartition("/")[2])}
    qualified |= {d.weight.key for d in plan.decisions}
    notes = []
    for key, request in requests.by_name.items():
        told = f"op_name_configs[{key!r}]"
        if key in named:
            # What is named itself says so in its own decision.
            if all(d.ineligible and not d.unmet for d in named[key]):
                notes.append(f"{told}: no palette can be made of what it reads ({_reasons(named[key])})")
        elif key in names or key in qualified or key in requests.modules or is_pattern(key):
            if request is not None:
                notes.append(f"{told}: reads no constant above its weight_threshold")
        else:
            unknown += 1
            near = near_names(key, qualified if "/" in key else names) if unknown <= _MOST_NEAR else ""
            notes.append(f"{told} matches nothing in function {functions}{near}")
    return notes


def _reasons(decisions: list[Decision]) -> str:
    return format_some([f"{d.weight.key!r}: {d.reason}" for d in decisions])


def _refuse_unmet(plan: Plan, idle: list[str]) -> None:
    unmet = [f"{d.weight.key!r}: {d.reason or d.notes[-1]}" for d in plan.decisions if d.unmet] + idle
    if unmet:
        raise PlanError(f"strict: {format_count(len(unmet), 'request')} cannot be met as asked: {format_first(unmet)}")
