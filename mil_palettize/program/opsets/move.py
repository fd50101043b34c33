"""Opsets of ML programs, and moving a program up to a later one without changing what it computes.

Works on the serialized program: ops that mean the same in the later opset stay the same messages, the others
are rewritten by the rules of :mod:`~mil_palettize.program.opsets.rules`, and what cannot be moved is refused.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from mil_palettize.errors import ConfigError, PlanError
from mil_palettize.program.messages import MIL
from mil_palettize.program.new_names import NameSource
from mil_palettize.program.op_names import op_name
from mil_palettize.program.opsets.known_ops import KNOWN_OPS
from mil_palettize.program.opsets.operands import OpAtPlace
from mil_palettize.program.opsets.rules import RULES
from mil_palettize.program.opsets.verdicts import Refusal, Rewrite, Verdict
from mil_palettize.program.scopes import Scope, build_scope
from mil_palettize.text import format_some

_NAMES_PER_REASON = 3


@dataclass(frozen=True)
class Opset:
    """``name`` as programs state it, ``target`` the iOS release it came with, ``spec`` the specification
    version that holds it, ``aliases`` the other systems of the same release."""

    name: str
    target: str
    spec: int
    aliases: tuple[str, ...]


OPSETS: tuple[Opset, ...] = (
    Opset("CoreML5", "iOS15", 6, ("macOS12", "watchOS8", "tvOS15")),
    Opset("CoreML6", "iOS16", 7, ("macOS13", "watchOS9", "tvOS16")),
    Opset("CoreML7", "iOS17", 8, ("macOS14", "watchOS10", "tvOS17")),
    Opset("CoreML8", "iOS18", 9, ("macOS15", "watchOS11", "tvOS18")),
    Opset("CoreML9", "iOS26", 10, ("macOS26", "watchOS26", "tvOS26")),
)


@dataclass(frozen=True)
class Change:
    """One op a move changes. ``what`` is a line for the report."""

    function: str
    op_name: str
    op_type: str
    what: str


@dataclass(frozen=True)
class Move:
    """``source``: the lowest opset of the program's functions. ``target``: the one asked for. Functions at or
    above ``target`` are left as they are; the others get its name and ``changes``."""

    source: Opset
    target: Opset
    changes: tuple[Change, ...]


def parse_target(target: object) -> Opset:
    """The opset of ``"iOS18"``, ``"macOS15"``, ``"CoreML8"`` (in any case), ``coremltools.target.iOS18`` or
    an :class:`Opset`. Raises :class:`ConfigError` for anything else, and for releases before ML programs."""
    if isinstance(target, Opset):
        return target
    # Whoever has one of coremltools' targets has imported coremltools, which this file is light for not doing.
    is_theirs = type(target).__module__.partition(".")[0] == "coremltools"
    name = getattr(target, "name", target) if is_theirs else target
    if isinstance(name, str):
        for opset in OPSETS:
            if name.lower() in {known.lower() for known in (opset.name, opset.target, *opset.aliases)}:
                return opset
    allowed = ", ".join(f"{opset.target} ({opset.aliases[0]}, {opset.name})" for opset in OPSETS)
    raise ConfigError(f"target is {name!r}; allowed are {allowed}: name one of them")


def opset_of(stated: str | MIL.Function) -> Opset:
    """The opset named by a block specialization key, or by a function's field ``opset``. Raises
    :class:`PlanError` when it is not one of :data:`OPSETS`."""
    name = stated if isinstance(stated, str) else stated.opset
    for opset in OPSETS:
        if opset.name == name:
            return opset
    known = ", ".join(opset.name for opset in OPSETS)
    raise PlanError(f"the program states opset {name!r}; known are {known}: a later version may know it")


def plan_move(program: MIL.Program, target: Opset) -> Move:
    """What moving ``program`` up to ``target`` changes; reads only. Raises :class:`PlanError` with every op
    that would mean something else there, counted per op type and reason, when there is one."""
    survey = _surveyed(program, target)
    opsets = [opset_of(function) for function in program.functions.values()]
    source = min(opsets, key=lambda opset: opset.spec, default=target)
    return Move(source, target, tuple(survey.changes))


def apply_move(program: MIL.Program, move: Move) -> None:
    """Moves ``program`` up to ``move.target`` in place: ops, opset names and block specialization keys.
    Raises :class:`PlanError` as :func:`plan_move` does, before anything is changed."""
    survey = _surveyed(program, move.target)
    for block, rewrites in survey.edits:
        _rewrite_block(block, rewrites)
    for function in survey.functions:
        stated = function.opset
        moved = function.block_specializations[move.target.name]
        moved.CopyFrom(function.block_specializations[stated])
        del function.block_specializations[stated]
        function.opset = move.target.name


@dataclass
class _Survey:
    """What a move finds: ``functions`` to be moved, ``edits`` per block (inner blocks before the ones around
    them, so that rebuilding a block copies finished ones), ``changes`` in program order, and
    ``refusals``: (op type, reason) -> where."""

    target: Opset
    functions: list[MIL.Function] = field(default_factory=list)
    edits: list[tuple[MIL.Block, dict[int, Rewrite]]] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    refusals: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))

    def function(self, name: str, function: MIL.Function) -> None:
        source = opset_of(function)
        if source.spec >= self.target.spec:
            return
        self.functions.append(function)
        if function.opset not in function.block_specializations:
            raise PlanError(f"function {name!r} states opset {function.opset} but has no block for it")
        if self.target.name in function.block_specializations:
            raise PlanError(
                f"function {name!r} of opset {function.opset} also has a block for {self.target.name}, "
                f"which a move to {self.target.target} would replace: keep its opset"
            )
        block = function.block_specializations[function.opset]
        _Walk(self, name, source, build_scope(function, block), NameSource(function)).block(block)


@dataclass(frozen=True)
class _Walk:
    """One function being surveyed."""

    survey: _Survey
    function: str
    source: Opset
    scope: Scope
    names: NameSource

    def block(self, block: MIL.Block) -> None:
        rewrites: dict[int, Rewrite] = {}
        for position, op in enumerate(block.operations):
            verdict = self._verdict(OpAtPlace(op, self.scope, self.names))
            where = op_name(op)
            if isinstance(verdict, Rewrite):
                rewrites[position] = verdict
                self.survey.changes.append(Change(self.function, where, op.type, verdict.what))
            elif isinstance(verdict, Refusal):
                place = f"{where!r} of function {self.function!r}"
                self.survey.refusals[op.type, verdict.reason].append(place)
            for nested in op.blocks:
                self.block(nested)
        if rewrites:
            self.survey.edits.append((block, rewrites))

    def _verdict(self, place: OpAtPlace) -> Verdict:
        if place.op.type not in KNOWN_OPS:
            return Refusal("its meaning in a later opset is not known")
        since, rule = RULES.get(place.op.type, (0, None))
        if rule is None or not self.source.spec < since <= self.survey.target.spec:
            return None
        return rule(place)


def _surveyed(program: MIL.Program, target: Opset) -> _Survey:
    survey = _Survey(target)
    for name in sorted(program.functions):
        survey.function(name, program.functions[name])
    if survey.refusals:
        raise PlanError(_refusal_text(survey))
    return survey


def _refusal_text(survey: _Survey) -> str:
    parts = []
    for (op_type, reason), places in sorted(survey.refusals.items()):
        parts.append(f"{len(places)} {op_type} ({format_some(places, _NAMES_PER_REASON)}): {reason}")
    target = survey.target
    return (
        f"the program cannot move to {target.target} ({target.name}) without changing what it computes: "
        f"{'; '.join(parts)}. Keep the model's own target, or convert it again for {target.target}"
    )


def _rewrite_block(block: MIL.Block, rewrites: dict[int, Rewrite]) -> None:
    operations: list[MIL.Operation] = []
    for position, op in enumerate(block.operations):
        rewrite = rewrites.get(position)
        operations.extend((*rewrite.before, rewrite.op) if rewrite is not None else (op,))
    rebuilt = MIL.Block(operations=operations)
    block.ClearField("operations")
    block.operations.extend(rebuilt.operations)
