"""Blocks that were fitted, in the folder of ``resume``: a run that was stopped goes on with the next one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mil_palettize.encoding.palette_cache import Clustered
from mil_palettize.torch.training.free_parts import FreeParts, State


@dataclass(frozen=True)
class KeptBlocks:
    """``key``: a digest of all that blocks depend on."""

    clustered: Clustered
    key: str

    def found(self, parts: Sequence[FreeParts]) -> list[State | None]:
        """What the first blocks came to, of which ``parts`` has all; None for each that got no better."""

        def built(header: dict[str, Any], arrays: State) -> list[State | None]:
            states: list[State | None] = [{} if better else None for better in header["better"]]
            for name, array in arrays.items():
                number, part = name.split(" ", 1)
                states[int(number)][part] = array  # type: ignore[index]
            for free, state in zip(parts[: len(states)], states, strict=True):
                if state is not None:
                    free.check(state)
            return states

        return self.clustered.state(self.key, "block reconstruction", built) or []

    def keep(self, states: Sequence[State | None]) -> None:
        """In the place of what was kept before. Raises PackageError where the folder cannot be written to."""
        arrays = {f"{n} {name}": array for n, state in enumerate(states) for name, array in (state or {}).items()}
        self.clustered.keep_state(self.key, {"better": [state is not None for state in states]}, arrays)
