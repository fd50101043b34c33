"""What a stored constant holds, whatever its form: a word for its form, its dense values, its stored bytes."""

from __future__ import annotations

import hashlib

import numpy as np

from mil_palettize.program.palette_ops import OP_TYPE, read_lut
from mil_palettize.program.serialized import Site, blob_uses
from mil_palettize.program.store import Store
from mil_palettize.program.values import MIL, NUMPY_TYPES, static_shape


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
        groups = int(np.prod(shape[:-2], dtype=np.int64))
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
