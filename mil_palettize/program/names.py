"""New names for values and ops of a function."""

from __future__ import annotations

from mil_palettize.program.scopes import op_name
from mil_palettize.program.values import MIL


class NameSource:
    """Names not used anywhere in a function."""

    def __init__(self, function: MIL.Function) -> None:
        self._used = {item.name for item in function.inputs}
        for block in function.block_specializations.values():
            self._collect(block)

    def _collect(self, block: MIL.Block) -> None:
        self._used.update(item.name for item in block.inputs)
        for op in block.operations:
            self._used.add(op_name(op))
            self._used.update(item.name for item in op.outputs)
            for nested in op.blocks:
                self._collect(nested)

    def unique(self, wanted: str) -> str:
        """``wanted``, or ``wanted_1``, ``wanted_2``, ...; used from now on."""
        name, count = wanted, 0
        while name in self._used:
            count += 1
            name = f"{wanted}_{count}"
        self._used.add(name)
        return name
