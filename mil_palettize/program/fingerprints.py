"""Digests of messages and of the data they point at: equal wherever a package's weight files put that data."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable

import numpy as np
from google.protobuf.message import Message

from mil_palettize.package.blob import SUB_BYTE_BITS
from mil_palettize.program.blob_uses import blob_uses
from mil_palettize.program.store import Store
from mil_palettize.program.values import BLOB_TYPES, MIL, static_shape


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
