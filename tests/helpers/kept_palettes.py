"""The folder in which palettes are kept, from outside: its files, what was made anew, and a palette to keep."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from form_packages import WRITTEN

from mil_palettize.algorithms.making import ArraySource
from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.encoding.palette_cache import palette_key
from mil_palettize.encoding.results import Encoded
from mil_palettize.expressions.digest import expression_digest
from mil_palettize.expressions.packed import Packed
from mil_palettize.expressions.weight_expr import Lut
from mil_palettize.program.forms import FORMS
from mil_palettize.program.forms import Form as OpForm
from mil_palettize.request.importance import Importance, checked_importance

PLAIN = WRITTEN["typed"]
WEIGHTS = 4
IOS18 = FORMS["CoreML8"]
assert IOS18 is not None
PLAN = PaletteSpecification("kmeans", 4, (1, 2, 4, 8), None, None)


class Counts(dict[str, int]):
    """How often palettes were made, and distinct values found."""

    def since(self, before: dict[str, int]) -> tuple[int, int]:
        return self["make_palette"] - before["make_palette"], self["describe"] - before["describe"]


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def palette(seed: int = 0) -> Encoded:
    draw = np.random.default_rng(seed)
    indices = Packed.pack(draw.integers(0, 16, (6, 8)).astype(np.uint8), 4)
    lut = np.sort(draw.standard_normal(16)).astype(np.float16).reshape(1, 1, 16, 1)
    expr = Lut(indices, lut)
    decoded = expr.decode().astype(np.float64)
    return Encoded(expr, float(np.vdot(decoded, decoded)), 0.0, PLAN, "a note")


WEIGHT = ArraySource("w", np.zeros((6, 8), np.float16))  # which palette() could be of


def key(
    content: str,
    plan: PaletteSpecification = PLAN,
    form: OpForm = IOS18,
    importance: Importance | None = None,
) -> str:
    return palette_key(content, plan, form, importance)


def checked(array: np.ndarray) -> Importance:
    return checked_importance({"w": array})["w"]


def same(found: Encoded | None, kept: Encoded) -> bool:
    if found is None or expression_digest(found.expr) != expression_digest(kept.expr):
        return False
    return found.kept and dataclasses.replace(found, expr=kept.expr, kept=False) == kept
