"""Loops that are a GRU, which is what coremltools converts torch's to: run by torch's own kernel.

Source: ``converters/mil/frontend/torch/ops.py``, ``_add_gru_layer``. Variables are the number of the step, and the
states of all, (steps + 1, batch, columns): the first is given, the others are zeros to which each step adds its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from mil_palettize.torch.evaluator.ops import fused_recurrent
from mil_palettize.torch.evaluator.program import Block, Function, Step

_FLOATS, _INTEGERS = frozenset({"fp16", "fp32"}), frozenset({"int16", "uint16", "int32"})
_MOST_STEPS = (1 << 15) - 1  # that a number of int16 counts
_MOST_OPS = 100  # of a block that is looked at, which is done as deep as its ops stand on each other; a GRU has 34
_GATES = ("r", "z", "n")  # reset, update, new, as torch has them
_PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
Term = Any  # what a slot holds: (type of the op, operands and settings by name), (_KNOWN, slot or number), a variable
_KNOWN = "known"
_NUMBER, _STATES = ("variable", 0), ("variable", 1)


def _op(kind: str, **operands: Any) -> Term:
    """Settings that are 0 or False, the defaults of all ops here, are left out."""
    return kind, tuple(sorted((name, value) for name, value in operands.items() if value is not None))


@dataclass(frozen=True)
class _Hole:
    """Stands for what is known before the loop; ``name``: what it is to the GRU."""

    name: str


def _gate(name: str, x: Term, h: Term) -> tuple[Term, Term]:
    """What the input and the last state contribute."""
    return (
        _op("linear", x=x, weight=_Hole(f"{name}.weight_ih"), bias=_Hole(f"{name}.bias_ih")),
        _op("linear", x=h, weight=_Hole(f"{name}.weight_hh"), bias=_Hole(f"{name}.bias_hh")),
    )


def _pattern() -> Sequence[Term]:
    """Of the condition, and of both variables after a step."""
    x, h = (_op("squeeze", x=_op("gather", x=of, indices=_NUMBER), axes=(0,)) for of in (_Hole("x"), _STATES))
    (in_r, of_r), (in_z, of_z), (in_n, of_n) = (_gate(name, x, h) for name in _GATES)
    r, z = (_op("sigmoid", x=_op("add", x=one, y=two)) for one, two in ((in_r, of_r), (in_z, of_z)))
    n = _op("tanh", x=_op("add", x=in_n, y=_op("mul", x=r, y=of_n)))
    new = _op("mul", x=_op("sub", x=(_KNOWN, 1), y=z), y=n)
    state = _op("expand_dims", x=_op("add", x=new, y=_op("mul", x=z, y=h)), axes=(0,))
    after = _op("add", x=_NUMBER, y=(_KNOWN, 1))
    added = _op("scatter", data=_STATES, indices=after, updates=state, mode="add")
    return _op("less", x=_NUMBER, y=_Hole("steps")), after, added


_PATTERN = _pattern()


def mark_gru_loops(function: Function) -> None:
    """Give loops that are a GRU their shortcut."""
    for step in function.block.all_steps():
        if step.info.type == "while_loop":
            step.shortcut = _gru_loop(step, function)


def _gru_loop(step: Step, function: Function) -> GruLoop | None:
    variables = [slot for reading in step.readings for slot in reading.slots]
    if [(len(block.inputs), len(block.outputs)) for block in step.blocks] != [(2, 1), (2, 2)] or len(variables) != 2:
        return None
    condition, body = step.blocks
    if len(condition.steps) + len(body.steps) > _MOST_OPS:
        return None
    of_condition, of_body = _Terms(condition, function), _Terms(body, function)
    found = (of_condition.of(condition.outputs[0]), *(of_body.of(slot) for slot in body.outputs))
    known: dict[str, Any] = {}
    matches = all(_matches(term, pattern, known) for term, pattern in zip(found, _PATTERN, strict=True))
    return GruLoop(known) if matches else None


class _Terms:
    def __init__(self, block: Block, function: Function) -> None:
        self._function = function
        self._makers = {slot: step for step in block.steps for slot in step.outputs}
        self._found: dict[str, Term] = {slot: ("variable", i) for i, slot in enumerate(block.inputs)}

    def of(self, slot: str) -> Term:
        if slot not in self._found:
            self._found[slot] = self._made(self._makers[slot]) if slot in self._makers else self._known(slot)
        return self._found[slot]

    def _known(self, slot: str) -> Term:
        constant = self._function.constants.get(slot)
        if constant is None or prod(constant.shape) != 1:
            return _KNOWN, slot
        return _KNOWN, constant.decode().item()

    def _made(self, step: Step) -> Term:
        if len(step.outputs) > 1:
            return step.info.type, step.outputs  # which none of a GRU's ops is
        operands: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in step.fixed.items() if value
        }
        for reading in step.readings:
            operands[reading.name] = tuple(map(self.of, reading.slots)) if reading.many else self.of(reading.slots[0])
        term = _op(step.info.type, **operands)
        return self._same_number(term, operands) or term

    def _same_number(self, term: Term, operands: Mapping[str, Any]) -> Term | None:
        """What an op passes on: float16 is computed as float32, numbers of steps fit into all integers, and are not
        negative, which is asked for before they are an index."""
        if term[0] == "cast":
            x = operands["x"]
            counts = x in (_NUMBER, _PATTERN[1])
            return x if operands["dtype"] in (_INTEGERS if counts else _FLOATS) else None
        if term[0] == "select" and operands["cond"] == _op("greater_equal", x=_NUMBER, y=(_KNOWN, 0)):
            return operands["a"] if operands["a"] == _NUMBER else None
        return None


def _matches(term: Term, pattern: Term, known: dict[str, Any]) -> bool:
    """Whether they are the same but for holes, whose slots or numbers go into ``known``."""
    if isinstance(pattern, _Hole):
        held = isinstance(term, tuple) and term[0] == _KNOWN
        held = held and (isinstance(term[1], str) or pattern.name == "steps")
        return held and known.setdefault(pattern.name, term[1]) == term[1]
    if isinstance(pattern, tuple) and isinstance(term, tuple):
        return len(term) == len(pattern) and all(_matches(t, p, known) for t, p in zip(term, pattern, strict=True))
    return bool(term == pattern)


class GruLoop:
    """``known``: the slots of the input and of weights and biases of each gate; of the number of steps, or that."""

    def __init__(self, known: Mapping[str, Any]) -> None:
        self._steps, self._input = known["steps"], known["x"]
        self._parts = {part: [known[f"{gate}.{part}"] for gate in _GATES] for part in _PARTS}

    def __call__(self, values: Mapping[str, Any], arguments: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """The loop's variables after it, from all values by slot and the arguments of the loop; None where these are
        not those of a GRU, or are better run step by step."""
        number, states = arguments["loop_vars"]
        x, steps = values[self._input], values[self._steps] if isinstance(self._steps, str) else self._steps
        parts = {part: [values[slot] for slot in slots] for part, slots in self._parts.items()}
        try:
            steps = _steps(number, steps)
            if not _fits(x, states, steps, parts):
                return None
            hidden, _ = fused_recurrent.torch_gru(x[:steps], states[0], [torch.cat(part) for part in parts.values()])
        except RuntimeError:  # inside torch.vmap, which has no rule for the kernel
            return None
        return number + steps, torch.cat((states[:1], hidden, states[steps + 1 :]))


def _steps(number: Any, end: Any) -> int:
    """How many, from the number of the first; 0 where it is not the first of all, or another thing."""
    if not isinstance(number, torch.Tensor) or number.numel() != 1 or number.any():
        return 0
    if isinstance(end, torch.Tensor):
        return int(end) if end.numel() == 1 and not end.is_floating_point() else 0
    return end if isinstance(end, int) else 0


def _fits(x: Any, states: Any, steps: int, parts: Mapping[str, Sequence[Any]]) -> bool:
    if not fused_recurrent.FEWEST_STEPS <= steps <= _MOST_STEPS or not _is_sequence(x) or not _is_sequence(states):
        return False
    batch, columns = states.shape[1:]
    shapes = {"weight_ih": (columns, x.shape[2]), "weight_hh": (columns, columns)}
    alike = all(
        isinstance(value, torch.Tensor) and value.shape == shapes.get(part, (columns,)) and value.dtype == x.dtype
        for part, of_gates in parts.items()
        for value in of_gates
    )
    enough = x.shape[1] == batch and x.dtype == states.dtype and len(x) >= steps < len(states)
    return alike and enough and not bool(states[1 : steps + 1].any())


def _is_sequence(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim == 3
