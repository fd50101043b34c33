"""The view of a constant that planning works on: what it is called, what it looks like, who reads it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from mil_palettize.program.roles import is_weight_input

ITEMSIZE = {"fp16": 2, "fp32": 4}  # bytes of an element, of the types that palettes are made of


class WeightId(NamedTuple):
    """What tells a constant from every other one of its model, the same in plan, report, evaluator and writer.

    ``function``: its function, with the pipeline stage in front where there is one (``"stage/main"``). ``block``: path
    of the block that declares it (``program/block_paths.py``), "" for the function's own; of a tensor that is bound to
    an op in place, that place. ``name``: of its value there.
    """

    function: str
    block: str
    name: str

    @property
    def stage(self) -> str:
        """The label of the pipeline stage, "" where there is none."""
        return self.function.rpartition("/")[0]

    @property
    def key(self) -> str:
        """``function/name``, as messages and ``op_name_configs`` write it: names of sibling blocks may share one."""
        return f"{self.function}/{self.name}"


@dataclass(frozen=True)
class Consumer:
    """An op that reads a weight, found through const-only shape ops, casts and loop arguments.

    ``channel_axis``: axis of the *weight* along which the op's output channels lie, None where it cannot be
    followed back. ``path``: (op type, op name) of the ops in between, nearest the weight first. ``groups``: of a
    convolution, 1 for everything else. ``outputs``: names of what the op gives, where they are not the op's own.
    ``rotary``: whether the op looks up cosines or sines of positions (``program/look_ups.py``).
    """

    op_type: str
    op_name: str
    input_name: str
    channel_axis: int | None
    path: tuple[tuple[str, str], ...] = ()
    groups: int = 1
    outputs: tuple[str, ...] = ()
    rotary: bool = False

    def channels_of_group(self, axis: int, size: int) -> int:
        """How many of the ``size`` channels along ``axis`` of the weight a group of the convolution uses.

        As coremltools' ``is_cluster_dim_valid``: groups split the weight along axis 0 as the op reads it. Where that
        axis cannot be followed back, it may be any.
        """
        split = self.channel_axis if self.op_type == "conv" else None if self.path else 0
        return size // self.groups if split in (None, axis) else size

    def __str__(self) -> str:
        return f"{self.op_type} {self.input_name!r} of {self.op_name!r}"


@dataclass(frozen=True)
class Weight:
    """A constant of one function.

    ``function``, ``block`` and ``name``: those of its :class:`WeightId`. ``dtype``: MIL's name (``"fp16"``).
    ``opset``: of the function (``"CoreML8"``). ``storage``: key of the blob record it is stored in, equal for
    constants that share one; None for a value inside the program. ``obstacle``: why its form rules out a palette (""
    when nothing does).

    ``joint``: what joint compression can make a palette of although the constant is compressed already: its "sparse"
    values or its "scaled" integers, "" for neither. ``stored``: how many elements of ``stored_nbytes`` that are;
    ``blocks``: the shape of the scales.
    """

    name: str
    op_name: str
    function: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    opset: str
    consumers: tuple[Consumer, ...]
    storage: tuple[str, int] | None
    form: str = "const"
    obstacle: str = ""
    block: str = ""
    joint: str = ""
    stored: int = 0
    stored_nbytes: int = 0
    blocks: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def acts_as_weight(self) -> bool:
        """Whether an op reads it as a matrix of learned values."""
        return any(is_weight_input(c.op_type, c.input_name) for c in self.consumers)

    @property
    def is_rotary(self) -> bool:
        """Whether all that reads it looks up cosines or sines of positions."""
        return bool(self.consumers) and all(c.rotary for c in self.consumers)

    @property
    def id(self) -> WeightId:
        return WeightId(self.function, self.block, self.name)

    @property
    def key(self) -> str:
        """As :attr:`WeightId.key`."""
        return self.id.key
