"""Which palettes each opset can hold, and why not (sources: coremltools ``ops/defs/iOS16/constexpr_ops.py``,
``ops/defs/iOS18/compression.py``)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Form:
    """How an opset stores a palette.

    ``packed``: op attributes ``indices`` (uint8, bits packed), ``lut``, ``shape``. ``typed``: op inputs
    ``indices`` (uint1 ... uint8, the weight's shape; of vectors one for each), ``lut`` (rank K+2), ``vector_axis``.
    """

    name: str
    nbits: tuple[int, ...]
    grouped: bool
    vectors: bool


PACKED = Form("packed", (1, 2, 4, 6, 8), grouped=False, vectors=False)
TYPED = Form("typed", (1, 2, 3, 4, 6, 8), grouped=True, vectors=True)

FORMS: dict[str, Form | None] = {
    "CoreML5": None,  # iOS15: no palette can live in it
    "CoreML6": PACKED,
    "CoreML7": PACKED,
    "CoreML8": TYPED,
    "CoreML9": TYPED,
}
# Where a package goes by itself when its own opset can hold no palette at all.
FIRST_WITH_PALETTES = "CoreML6"


def refusal(form: Form, nbits: int | None, grouped: bool, vectors: bool = False) -> str:
    """Why ``form`` cannot hold such a palette, "" when it can."""
    needs = 'is supported since iOS18: pass target="iOS18" (--target iOS18) to move the package up'
    if grouped and not form.grouped:
        return f"per_grouped_channel palettization {needs}"
    if vectors and not form.vectors:
        return f"The vector palettization {needs}"
    if nbits is not None and nbits not in form.nbits:
        return f"nbits={nbits} {needs}, or use one of {form.nbits}"
    return ""
