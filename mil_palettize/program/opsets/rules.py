"""Ops that mean or look different in a later opset, each with its rule.

Every other op of :mod:`~mil_palettize.program.opsets.known_ops` means the same after a move: its later versions
only accept more types, or add optional inputs whose defaults keep the old behaviour. That includes
``upsample_bilinear``, whose new ``half_pixel_centers`` defaults to ``not align_corners``, which is the grid
of the older op (docstrings of ``ops/defs/iOS15/image_resizing.py`` and ``iOS16/image_resizing.py``).
Source: op registry and docstrings of coremltools 9.0.
"""

from __future__ import annotations

from collections.abc import Callable

from mil_palettize.program.opsets.element_facts import never_zero
from mil_palettize.program.opsets.negative_indices import INDEXED_OPS, nonnegative_indices
from mil_palettize.program.opsets.operands import OpAtPlace
from mil_palettize.program.opsets.typed_forms import blockwise_affine, typed_cast, typed_lut, typed_sparse
from mil_palettize.program.opsets.verdicts import Refusal, Verdict

Rule = Callable[[OpAtPlace], Verdict]

_SPEC_IOS17, _SPEC_IOS18 = 8, 9


def reshape_zeros(place: OpAtPlace) -> Verdict:
    """From iOS17 a 0 in ``shape`` counts dimensions from the right; before, it meant the same position and
    needed ``len(shape) == rank(x)``: refused unless the lengths agree or no entry can be 0."""
    x, shape = place.operand("x"), place.operand("shape")
    rank = len(x.dims) if x is not None and x.dims is not None else None
    if shape is None or shape.dims is None or len(shape.dims) != 1:
        return Refusal("the type of its shape is not known")
    length = shape.dims[0]
    if (rank is not None and length == rank) or never_zero(shape):
        return None
    entries = "a number of entries not known" if length is None else f"{length} entries"
    told = "a 0 in shape" if shape.array is not None else "a shape computed at run time that may hold a 0"
    rank_text = "unknown rank" if rank is None else f"rank {rank}"
    return Refusal(f"ambiguous reshape: {told}, with {entries} for an x of {rank_text}, reads differently there")


def clip_bounds(place: OpAtPlace) -> Verdict:
    """From iOS17 ``clip`` must have ``alpha < beta``; before, equal or crossed bounds were taken."""
    low, high = (place.operand(name) for name in ("alpha", "beta"))
    alpha, beta = (item.array if item is not None else None for item in (low, high))
    if alpha is None or beta is None or alpha.size != 1 or beta.size != 1:
        return Refusal("the values of its alpha and beta are not known, and they must be in order there")
    if float(alpha.item()) < float(beta.item()):
        return None
    return Refusal(f"alpha {alpha.item():g} must be below beta {beta.item():g} there")


def crop_resize_signature(place: OpAtPlace) -> Verdict:
    """``roi`` became ``boxes`` and ``box_indices``, and the output lost a dimension."""
    return Refusal("roi became boxes and box_indices there, and the output has another rank")


def non_maximum_suppression_signature(place: OpAtPlace) -> Verdict:
    """Another layout of boxes and scores, other inputs and outputs."""
    return Refusal("score_threshold and the fourth output are gone there, and boxes and scores are laid out anew")


# op type -> (specification version of the first opset it is different in, rule)
RULES: dict[str, tuple[int, Rule]] = {
    "reshape": (_SPEC_IOS17, reshape_zeros),
    "clip": (_SPEC_IOS17, clip_bounds),
    "crop_resize": (_SPEC_IOS17, crop_resize_signature),
    "non_maximum_suppression": (_SPEC_IOS17, non_maximum_suppression_signature),
    **dict.fromkeys(INDEXED_OPS, (_SPEC_IOS17, nonnegative_indices)),
    "constexpr_lut_to_dense": (_SPEC_IOS18, typed_lut),
    "constexpr_sparse_to_dense": (_SPEC_IOS18, typed_sparse),
    "constexpr_cast": (_SPEC_IOS18, typed_cast),
    "constexpr_affine_dequantize": (_SPEC_IOS18, blockwise_affine),
}
