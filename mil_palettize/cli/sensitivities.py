"""How much weights count, as text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mil_palettize.reports.tables import format_table
from mil_palettize.text import printable


def sensitivity_text(found: Mapping[str, Any], width: int) -> str:
    """A line for each weight: its shape, and how far its elements differ."""
    rows = [
        [printable(name), "×".join(map(str, array.shape)), f"{float(array.max()):.3g}", f"{float(array.min()):.3g}"]
        for name, array in found.items()
    ]
    return format_table(("weight", "shape", "greatest", "least"), rows, width, right=2) + "\n"


def sensitivity_json(found: Mapping[str, Any]) -> str:
    """The same for a script."""
    told = {
        name: {"shape": list(array.shape), "greatest": float(array.max()), "least": float(array.min())}
        for name, array in found.items()
    }
    return json.dumps({"weights": told}, ensure_ascii=False) + "\n"
