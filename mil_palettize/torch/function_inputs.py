"""Which samples are of which function of a model with several."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def inputs_of(function: str, functions: Sequence[str], inputs: Any) -> Any:
    """What of ``inputs`` is for one of ``functions``: theirs by name, of a mapping or of a folder with a file
    ``NAME.npz`` for each; anything else is for all of them."""
    if isinstance(inputs, str | os.PathLike):
        files = {name: Path(inputs, f"{name}.npz") for name in functions}
        return files[function] if all(file.is_file() for file in files.values()) else inputs
    if isinstance(inputs, Mapping) and inputs.keys() == set(functions):
        return inputs[function]
    return inputs
