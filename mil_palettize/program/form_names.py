"""Words for the form of a stored constant, as reports tell it: ``const``, ``4-bit palette``, ``int8 scaled``, ..."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mil_palettize.program.expression_reader import parameter_type, unknown_form
from mil_palettize.program.scopes import Node
from mil_palettize.program.sites import Site
from mil_palettize.program.values import MIL, static_shape, type_name

# Op type -> the parameter that holds the values, and what the op makes of them.
_WORDS = {
    "constexpr_affine_dequantize": ("quantized_data", "scaled"),
    "constexpr_blockwise_shift_scale": ("data", "scaled"),
    "constexpr_sparse_blockwise_shift_scale": ("nonzero_data", "scaled, sparse"),
    "constexpr_sparse_to_dense": ("nonzero_data", "sparse"),
    "constexpr_cast": ("source_val", "cast"),
}


def describe_form(site: Site) -> str:
    """``const``, ``4-bit palette``, ``3-bit palette, 8 groups``, ``int8 scaled``, ``4-bit palette, sparse``, ...; the
    op type of a form that is not known."""
    if site.node is None or unknown_form(site.op, site.node.sources):
        return site.op.type
    return _describe(site.op, site.node.sources)


def _describe(op: MIL.Operation, sources: Mapping[str, Node]) -> str:
    """In the order in which the values are made: what is stored first."""
    if op.type == "constexpr_lut_to_dense":
        return _palette(op, sources)
    if op.type == "constexpr_lut_to_sparse":
        return f"{_palette(op, sources)}, sparse"
    if op.type not in _WORDS:
        return op.type
    main, word = _WORDS[op.type]
    node = sources.get(main)
    if node is None or node.op is None or node.op.type == "const":
        return f"{type_name(parameter_type(op, sources, main).tensorType.dataType)} {word}"
    inner = _describe(node.op, node.sources)
    return inner if inner.endswith(word) else f"{inner}, {word}"


def _palette(op: MIL.Operation, sources: Mapping[str, Node]) -> str:
    shape = static_shape(parameter_type(op, sources, "lut")) or ()
    entries, groups = (shape[-2], shape[:-2]) if len(shape) > 1 else (math.prod(shape), ())
    count = math.prod(groups)
    words = [f"{int(entries).bit_length() - 1}-bit palette"]
    if count > 1:
        words.append(f"{count} groups")
    if len(shape) > 1 and shape[-1] > 1:
        words.append(f"vectors of {shape[-1]}")
    table = sources.get("lut")
    if table is not None and table.op is not None and table.op.type != "const":
        words.append(f"{_describe(table.op, table.sources)} entries")
    return ", ".join(words)
