"""What a stored constant holds, whatever its form: a word for its form, its dense values, its stored bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from mil_palettize.program.expressions import UnknownFormError, parameter_type, read_expression, unknown_form
from mil_palettize.program.scopes import Node
from mil_palettize.program.serialized import Site, blob_uses
from mil_palettize.program.store import Store
from mil_palettize.program.values import MIL, NUMPY_TYPES, static_shape, type_name
from mil_palettize.weight_expr import Const, WeightExpr

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
    entries, groups = (shape[-2], shape[:-2]) if len(shape) > 1 else (shape[0], ())
    count = int(np.prod(groups, dtype=np.int64))
    words = [f"{int(entries).bit_length() - 1}-bit palette"]
    if count > 1:
        words.append(f"{count} groups")
    if len(shape) > 1 and shape[-1] > 1:
        words.append(f"vectors of {shape[-1]}")
    table = sources.get("lut")
    if table is not None and table.op is not None and table.op.type != "const":
        words.append(f"{_describe(table.op, table.sources)} entries")
    return ", ".join(words)


def expression(site: Site, store: Store) -> WeightExpr | None:
    """What a constant is stored as; None for a form or type that is not decoded here. Raises BlobError."""
    if site.node is None:
        if site.value.type.tensorType.dataType not in NUMPY_TYPES:
            return None
        return Const(store.array(site.value, used_by=site.weight.key))
    try:
        return read_expression(site.op, site.node.sources, store, used_by=site.weight.key)
    except UnknownFormError:
        return None


def dense(site: Site, store: Store) -> np.ndarray | None:
    """The values a constant stands for; None for a form or type that is not decoded here. Raises BlobError."""
    expr = expression(site, store)
    return None if expr is None else expr.decode()


def fingerprint(op: MIL.Operation, store: Store) -> bytes:
    """A digest of the op in which every blob reference stands for its bytes, so that two packages compare equal
    wherever their weight files put the same data."""
    digest = hashlib.sha256()
    bare = MIL.Operation()
    bare.CopyFrom(op)
    del bare.blocks[:]
    uses = sorted(blob_uses(bare), key=lambda use: (use.file_name, use.offset))
    for use in uses:
        reader, record = store.locate(use.value, used_by=use.owner)
        for window in reader.windows(record):
            digest.update(window.data)
        digest.update(b"%d %d" % (record.data_type, record.size))
    for use in uses:
        use.value.ClearField("blobFileValue")
    digest.update(bare.SerializeToString(deterministic=True))
    return digest.digest()
