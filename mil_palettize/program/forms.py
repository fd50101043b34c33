"""Which palettes each opset can hold, and why not (sources: coremltools ``ops/defs/iOS16/constexpr_ops.py``,
``ops/defs/iOS18/compression.py``)."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Form:
    """How an opset stores a palette.

    ``packed``: op attributes ``indices`` (uint8, bits packed), ``lut``, ``shape``. ``typed``: op inputs
    ``indices`` (uint1 ... uint8, the weight's shape; of vectors one for each), ``lut`` (rank K+2), ``vector_axis``.
    ``chains``: one constexpr op may read another. ``tables_scaled_first``: quantized data of a palette is scaled in
    the table; the other way round works from iOS26 on only (coremltools ``canonicalize_quantized_lut_pattern``).
    """

    name: str
    nbits: tuple[int, ...]
    grouped: bool
    vectors: bool
    chains: bool
    tables_scaled_first: bool = True


PACKED = Form("packed", (1, 2, 4, 6, 8), grouped=False, vectors=False, chains=False)
TYPED = Form("typed", (1, 2, 3, 4, 6, 8), grouped=True, vectors=True, chains=True)

TYPED_IOS26 = replace(TYPED, tables_scaled_first=False)

FORMS: dict[str, Form | None] = {
    "CoreML5": None,  # iOS15: no palette can live in it
    "CoreML6": PACKED,
    "CoreML7": PACKED,
    "CoreML8": TYPED,
    "CoreML9": TYPED_IOS26,
}
# Where a package goes by itself when its own opset can hold no palette at all.
FIRST_WITH_PALETTES = "CoreML6"


_RECONVERT = "Please re-convert your model with minimum_deployment_target set to at least ct.target.iOS18."
_MOVE = 'pass target="iOS18" (--target iOS18) to move the package up'


def refusal(
    form: Form,
    nbits: int | None,
    grouped: bool,
    vectors: bool = False,
    *,
    scaled: bool = False,
    quantized: bool = False,
    joint: bool = False,
) -> str:
    """Why ``form`` cannot hold such a palette, "" when it can. ``scaled``: with a scale for each channel;
    ``quantized``: with table entries of 8 bits; ``joint``: of what is compressed already."""
    if joint and not form.chains:
        return f"Joint compression is only supported since iOS18. {_RECONVERT} Or {_MOVE}"
    if grouped and not form.grouped:
        return f"The per_grouped_channel palettization is supported since iOS18. {_RECONVERT} Or {_MOVE}"
    if vectors and not form.vectors:
        return f"The vector palettization is supported since iOS18. {_RECONVERT} Or {_MOVE}"
    if scaled and not form.chains:
        return (
            "Palettization with per-channel-scale is only supported since iOS18. Please set "
            f"minimum_deployment_target accordingly. Or {_MOVE}"
        )
    if quantized and not form.chains:
        return f"lut_dtype, a quantized look-up table, is only supported since iOS18. {_RECONVERT} Or {_MOVE}"
    if nbits is not None and nbits not in form.nbits:
        # coremltools' own words stand in it, for who looks for these, as its tests do.
        sizes = "Parameter lut should be a vector of size from one of {2, 4, 16, 64, 256}"
        return f"nbits={nbits} is supported since iOS18: {_MOVE}, or use one of {form.nbits} ({sizes})"
    return ""
