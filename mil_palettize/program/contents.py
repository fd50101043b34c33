"""What a stored constant holds, whatever its form: a word for its form, its dense values, its stored bytes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable

import numpy as np
from google.protobuf.message import Message

from mil_palettize.package.blob import SUB_BYTE_BITS
from mil_palettize.program.palette_ops import OP_TYPE, read_lut
from mil_palettize.program.serialized import Site, blob_uses
from mil_palettize.program.store import Store
from mil_palettize.program.values import BLOB_TYPES, MIL, NUMPY_TYPES, static_shape


def describe_form(op: MIL.Operation) -> str:
    """``const``, ``4-bit palette``, ``3-bit palette, 8 groups``, or the op type of another compressed form."""
    if op.type != OP_TYPE:
        return op.type
    entries, groups = 0, 1
    if "lut" in op.attributes:
        entries = (static_shape(op.attributes["lut"].type) or (0,))[0]
    elif "lut" in op.inputs and len(op.inputs["lut"].arguments) == 1:
        shape = static_shape(op.inputs["lut"].arguments[0].value.type) or (0, 0)
        entries = shape[-2] if len(shape) > 1 else 0
        groups = math.prod(shape[:-2])
    if not entries:
        return OP_TYPE
    return f"{int(entries).bit_length() - 1}-bit palette" + (f", {groups} groups" if groups > 1 else "")


def dense(site: Site, store: Store) -> np.ndarray | None:
    """The values a constant stands for; None for a form or type that is not decoded here."""
    if site.weight.form in ("const", "inline"):
        if site.value.type.tensorType.dataType not in NUMPY_TYPES:
            return None
        return store.array(site.value, used_by=site.weight.key)
    lut = read_lut(site.op, store, used_by=site.weight.key)
    return None if lut is None else lut.decode()


def fingerprint(message: Message, store: Store, *, as_declared: bool = False) -> bytes:
    """A message (an op without its nested blocks) serialized, with a digest of the data in place of each blob
    reference, so that two packages compare equal wherever their weight files put it.

    ``as_declared``: as if every record had the data type of the value that points at it, as a move stores it.
    """
    bare = type(message)()
    bare.CopyFrom(message)
    if isinstance(bare, MIL.Operation):
        bare.ClearField("blocks")
    for use in list(blob_uses(bare)):
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
