"""What a stored constant holds, whatever its form: a word for its form, its dense values, its stored bytes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping

import numpy as np
from google.protobuf.message import Message

from mil_palettize.expressions.weight_expr import Const, WeightExpr
from mil_palettize.package.blob import SUB_BYTE_BITS
from mil_palettize.program.blob_uses import blob_uses
from mil_palettize.program.expression_reader import UnknownFormError, parameter_type, read_expression, unknown_form
from mil_palettize.program.scopes import Node
from mil_palettize.program.serialized import Site
from mil_palettize.program.store import Store
from mil_palettize.program.values import BLOB_TYPES, MIL, NUMPY_TYPES, static_shape, type_name

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


def fingerprint(message: Message, store: Store, *, as_declared: bool = False) -> bytes:
    """A message (an op without its nested blocks) serialized, with a digest of the data in place of each blob
    reference, so that two packages compare equal wherever their weight files put it.

    ``as_declared``: as if every record had the data type of the value that points at it, as a move stores it.
    """
    bare = type(message)()
    bare.CopyFrom(message)
    if isinstance(bare, MIL.Operation):
        bare.ClearField("blocks")
    for use in blob_uses(bare):
        reader, record = store.locate(use.value, used_by=use.owner)
        stored = record.data_type, record.padding_bits if record.data_type in SUB_BYTE_BITS else 0
        if as_declared:
            stored = _declared(use.value, record.size) or stored
        use.value.blobFileValue.fileName = record_digest(*stored, reader.windows(record))
        use.value.blobFileValue.offset = 0
    return bytes(bare.SerializeToString(deterministic=True))


def record_digest(data_type: int, padding_bits: int, windows: Iterable[np.ndarray]) -> str:
    """What stands for a record in a :func:`fingerprint`; ``windows``: its data, contiguous uint8."""
    digest = hashlib.sha256(b"%d %d " % (data_type, padding_bits))
    for window in windows:
        digest.update(window.data)
    return digest.hexdigest()


def _declared(value: MIL.Value, nbytes: int) -> tuple[int, int] | None:
    """Data type code and padding bits of a record of ``nbytes`` for ``value``; None where its type has no code."""
    shape = static_shape(value.type)
    declared = BLOB_TYPES.get(value.type.tensorType.dataType)
    if shape is None or declared is None:
        return None
    code, bits = declared
    return code, nbytes * 8 - math.prod(shape) * bits
