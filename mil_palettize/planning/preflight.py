"""Which device rules speak of a model, or of what is planned for it, and of what in it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from mil_palettize.planning.device_facts import Facts, OpFacts, PaletteFacts, planned_palette
from mil_palettize.planning.device_rules import CONSEQUENCES, RULES, DeviceRule, met, sentence
from mil_palettize.planning.plan import Plan
from mil_palettize.text import format_count

_TOLD = ("fails", "falls back")  # in the report of a run
_TOLD_ELSEWHERE = ("scale-after-table",)  # a note of each weight


@dataclass(frozen=True)
class Finding:
    """A ``rule`` and ``names`` of what it speaks of; ``kinds``: op types, () of what are no ops."""

    rule: DeviceRule
    names: tuple[str, ...]
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Findings:
    """``found``: the worst consequence first. ``unknown_palettes``, ``unknown_ops``: that no rule speaks of."""

    found: tuple[Finding, ...]
    unknown_palettes: tuple[str, ...]
    unknown_ops: int


def findings(facts: Iterable[tuple[str, Facts]], device: str) -> Findings:
    """``facts``: with what each is of. ``device``: one of :data:`DEVICES`."""
    named: dict[str, list[str]] = defaultdict(list)
    kinds: dict[str, dict[str, None]] = defaultdict(dict)
    palettes: list[str] = []
    ops = 0
    for name, one in facts:
        rules = met(one, device)
        for rule in rules:
            named[rule.name].append(name)
            if isinstance(one, OpFacts):
                kinds[rule.name][one.op_type] = None
        if not rules:
            palettes += [name] if isinstance(one, PaletteFacts) else []
            ops += isinstance(one, OpFacts)
    found = [Finding(rule, tuple(named[rule.name]), tuple(kinds[rule.name])) for rule in RULES if rule.name in named]
    found.sort(key=lambda finding: CONSEQUENCES.index(finding.rule.consequence))
    return Findings(tuple(found), tuple(palettes), ops)


def device_notes(plan: Plan) -> list[str]:
    """What is planned that the Neural Engine is known not to run, for the report."""
    planned = []
    for decision in plan.decisions:
        if decision.specification is None:
            continue
        axes = {consumer.channel_axis for consumer in decision.weight.consumers}
        facts = planned_palette(decision.specification, axes.pop() if len(axes) == 1 else None)
        planned += [] if facts is None else [(decision.weight.key, facts)]
    return [
        f"{finding.rule.consequence} on the Neural Engine: {format_count(len(finding.names), 'weight')}: "
        f"{sentence(finding.rule)}"
        for finding in findings(planned, "ane").found
        if finding.rule.consequence in _TOLD and finding.rule.name not in _TOLD_ELSEWHERE
    ]
