"""Positions that do not count: padded tokens and masked frames, where the network's attention says that it hides them.

What a network makes of its inputs alone (comparisons, casts, products with constants) and then adds to the scores of a
``softmax``, or chooses them by, tells which positions no other position ever looks at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mil_palettize.torch.evaluator.execution import Execution
from mil_palettize.torch.evaluator.module import MILModule
from mil_palettize.torch.evaluator.program import Function, Step

_HIDES = -1e3  # added to a score that then counts nothing: exp of it is zero
# What makes masks of inputs: no arithmetic with weights, no look-up.
_OF_MASKS = frozenset({
    "cast", "identity", "sub", "add", "mul", "expand_dims", "reshape", "squeeze", "tile", "transpose", "logical_not",
    "equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "select",
})  # fmt: skip


@dataclass(frozen=True)
class Mask:
    """What hides positions. ``slot``: the tensor that says so; ``steps``: that make it of ``inputs``; ``kind``: whether
    it is added to scores, tells those that count, or those that do not ("added", "counts", "hides")."""

    slot: str
    steps: tuple[Step, ...]
    inputs: tuple[str, ...]
    kind: str


def mask_of(function: Function) -> Mask | None:
    """Of the first attention that has one; None without."""
    made: dict[str, Step] = {}
    known = {*function.types, *function.constants}
    for step in function.block.steps:
        if step.info.type in _OF_MASKS and not step.blocks and set(step.slots_read()) <= known:
            known |= set(step.outputs)
            made.update(dict.fromkeys(step.outputs, step))
    makers = {slot: step for step in function.block.steps for slot in step.outputs}
    for slot, kind in _candidates(function, makers):
        steps = tuple(_ancestors(slot, made))
        read = {other for step in steps for other in step.slots_read()} | {slot}
        inputs = tuple(name for name in function.types if name in read)
        if slot in known and inputs:
            return Mask(slot, steps, inputs, kind)
    return None


def _candidates(function: Function, makers: Mapping[str, Step]) -> Iterator[tuple[str, str]]:
    """Slots that may hide positions, and how."""
    for step in function.block.steps:
        read = {reading.name: reading.slots[0] for reading in step.readings if not reading.many}
        if step.info.type == "scaled_dot_product_attention" and "attn_mask" in read:
            yield read["attn_mask"], "added"
        if step.info.type != "softmax":
            continue
        maker = makers.get(read["x"])
        while maker is not None and maker.info.type == "cast":
            maker = makers.get(next(iter(maker.slots_read())))
        if maker is None:
            continue
        given = {reading.name: reading.slots[0] for reading in maker.readings if not reading.many}
        if maker.info.type == "add":
            yield from ((slot, "added") for slot in given.values())
        elif maker.info.type == "select" and "cond" in given:
            chosen = given.get("a")  # a constant, or none, where the scores are what is not chosen
            yield given["cond"], "hides" if chosen is None or chosen in function.constants else "counts"


def _ancestors(slot: str, made: Mapping[str, Step]) -> list[Step]:
    """Steps that make ``slot``, in the order in which they run."""
    wanted, found = [slot], set()
    while wanted:
        step = made.get(wanted.pop())
        if step is not None and id(step) not in found:
            found.add(id(step))
            wanted += step.slots_read()
    return [step for step in {id(step): step for step in made.values()}.values() if id(step) in found]


def kept_positions(module: MILModule, samples: Sequence[Mapping[str, Any]]) -> list[torch.Tensor | None]:
    """Of each sample, as the program takes it, bool (batch, positions), False for what attention hides from all others;
    None where nothing is hidden."""
    mask = mask_of(module.function)
    if mask is None:
        return [None] * len(samples)
    return [_kept(module, mask, sample) for sample in samples]


def _kept(module: MILModule, mask: Mask, sample: Mapping[str, Any]) -> torch.Tensor | None:
    run = Execution(module.function, module.values_of(sample), False, [])
    for step in mask.steps:
        run.values.update(zip(step.outputs, run.results(step, run.arguments(step)), strict=True))
    value = run.values[mask.slot]
    if value.dtype == torch.bool:
        hidden = value if mask.kind == "hides" else ~value
    elif mask.kind == "added":
        hidden = value <= _HIDES
    else:
        return None
    if hidden.ndim < 2:
        return None
    over = range(1, hidden.ndim - 1) if hidden.ndim == 4 else range(hidden.ndim - 1)  # (batch, heads, queries, keys)
    for axis in over:
        hidden = hidden.all(axis, keepdim=True)
    kept = ~hidden.reshape(-1, hidden.shape[-1])
    return None if kept.all() or not kept.any() else kept


def counted(tensor: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
    """What is left of a tensor without positions that do not count: (inputs, …) where these lie along its axes after
    the batch, and fewer along its last axis where they lie there (one sample in a batch); else the tensor."""
    if kept is None:
        return tensor
    batch, positions = kept.shape
    if tensor.ndim >= 2 and tuple(tensor.shape[:2]) == (batch, positions):
        return tensor[kept]
    if batch == 1 and tensor.ndim == 2 and tensor.shape[0] == positions:
        return tensor[kept[0]]
    if batch == 1 and tensor.ndim >= 3 and tensor.shape[0] == 1 and tensor.shape[-1] == positions:
        return tensor[..., kept[0]]
    return tensor


def counted_arguments(
    kind: str, parameter: str, arguments: Mapping[str, Any], kept: torch.Tensor | None
) -> Mapping[str, Any]:
    """Arguments of an op of this type that reads a weight as ``parameter``, without positions that do not count, where
    each of its outputs depends on one position alone; else ``arguments``."""
    name = {("gather", "x"): "indices", ("linear", "weight"): "x", ("conv", "weight"): "x", ("matmul", "y"): "x"}.get(
        (kind, parameter)
    )
    if kept is None or name is None or not isinstance(arguments[name], torch.Tensor):
        return arguments
    if kind == "conv" and (set(arguments["weight"].shape[2:]) != {1} or set(arguments.get("strides") or [1]) != {1}):
        return arguments
    if kind == "matmul" and (arguments["y"].ndim != 2 or arguments.get("transpose_x", False)):
        return arguments
    return {**arguments, name: counted(arguments[name], kept)}
