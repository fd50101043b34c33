"""What a rule of an opset move says about one op: nothing (None), a replacement, or a refusal."""

from __future__ import annotations

from dataclasses import dataclass

from mil_palettize.program.messages import MIL


@dataclass(frozen=True)
class Rewrite:
    """``op`` replaces the op looked at, after the new ops ``before``; ``what`` is for the report."""

    op: MIL.Operation
    what: str
    before: tuple[MIL.Operation, ...] = ()


@dataclass(frozen=True)
class Refusal:
    """Why the op cannot mean in the later opset what it means now."""

    reason: str


Verdict = Rewrite | Refusal | None
