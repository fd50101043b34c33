"""New names for values and ops of a function."""

from __future__ import annotations

from functools import cached_property

from mil_palettize.program.op_names import op_name
from mil_palettize.program.values import MIL


class NameSource:
    """Names not used anywhere in a function, which is looked through when the first one is asked for."""

    def __init__(self, function: MIL.Function) -> None:
        self._function = function
        self._counts: dict[str, int] = {}  # the last one taken for what was wanted

    @cached_property
    def _used(self) -> set[str]:
        blocks = list(self._function.block_specializations.values())
        used = {item.name for item in self._function.inputs}
        while blocks:
            block = blocks.pop()
            used.update(item.name for item in block.inputs)
            for op in block.operations:
                used.add(op_name(op))
                used.update(item.name for item in op.outputs)
                blocks += op.blocks
        return used

    def unique(self, wanted: str) -> str:
        """``wanted``, or ``wanted_1``, ``wanted_2``, ...; used from now on."""
        count = self._counts.get(wanted, 0)
        name = f"{wanted}_{count}" if count else wanted
        while name in self._used:
            count += 1
            name = f"{wanted}_{count}"
        self._used.add(name)
        self._counts[wanted] = count
        return name
