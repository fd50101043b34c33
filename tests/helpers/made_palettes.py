"""Palettes made of arrays, with the options of their specification spelled one by one."""

from __future__ import annotations

from typing import Any

from mil_palettize.algorithms.making import Palette, Source, make_palette
from mil_palettize.algorithms.specification import PaletteSpecification

ALLOWED = (1, 2, 3, 4, 6, 8)
_OF_CALL = ("pmap", "mask", "importance", "distinct")


def make_one(source: Source, **options: Any) -> Palette:
    """``make_palette`` with fields of a specification and its own arguments; all numbers of bits are allowed."""
    of_call = {name: options.pop(name) for name in _OF_CALL if name in options}
    specification = PaletteSpecification(**{"nbits": None, "allowed_nbits": ALLOWED} | options)
    return make_palette(source, specification, **of_call)
