"""A fingerprint of what a weight is stored as (numpy only)."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from mil_palettize.expressions.packed import Packed
from mil_palettize.expressions.weight_expr import Part


def expression_digest(expr: Part) -> str:
    """SHA-256 of what is stored: the kinds of parts, their types and shapes, their bytes."""
    digest = hashlib.sha256()
    _update(digest, "", expr)
    return digest.hexdigest()


def _update(digest: hashlib._Hash, name: str, part: object) -> None:
    if isinstance(part, np.ndarray):
        digest.update(f"{name} {part.dtype} {part.shape};".encode())
        digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
    elif isinstance(part, Packed):
        digest.update(f"{name} {part.nbits} {part.signed} {part.shape};".encode())
        digest.update(np.ascontiguousarray(part.data).data)
    elif dataclasses.is_dataclass(part):
        digest.update(f"{name} {type(part).__name__};".encode())
        for field in dataclasses.fields(part):
            _update(digest, field.name, getattr(part, field.name))
    else:
        digest.update(f"{name} {part};".encode())
