"""How much weights count, as text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mil_palettize.reports.tables import format_table
from mil_palettize.text import printable


def sensitivity_text(found: Mapping[str, Any], of: str, out: str, width: int) -> str:
    """A line for each weight: its shape, and how far its elements differ. ``of``: samples and loss, in words; ``out``:
    the file."""
    rows = [
        [printable(name), "×".join(map(str, array.shape)), f"{float(array.max()):.3g}", f"{float(array.min()):.3g}"]
        for name, array in found.items()
    ]
    table = format_table(("weight", "shape", "greatest", "least"), rows, width, right=2)
    return f"{printable(of)}\n{table}\nwritten to {printable(out)}, for palettize --sensitivity\n"


def sensitivity_json(found: Mapping[str, Any], of: str, out: str) -> str:
    """The same for a script."""
    told = {
        name: {"shape": list(array.shape), "greatest": float(array.max()), "least": float(array.min())}
        for name, array in found.items()
    }
    return json.dumps({"of": of, "out": out, "weights": told}, ensure_ascii=False) + "\n"
