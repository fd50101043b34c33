"""How much of the decoded weights is kept while a model is run."""

from __future__ import annotations

from mil_palettize.errors import ConfigError


def check_memory(memory: object) -> None:
    """Raise ConfigError unless ``memory`` is a number of bytes, or None for no limit."""
    if memory is None:
        return
    if isinstance(memory, bool) or not isinstance(memory, int) or memory < 0:
        raise ConfigError(f"memory is {memory!r}; give a number of bytes, or None")
