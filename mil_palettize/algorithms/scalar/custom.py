"""A user's ``lut_function``, as coremltools' ``OpPalettizerConfig`` describes it; all it returns is checked."""

from __future__ import annotations

from typing import Any

import numpy as np

from mil_palettize.algorithms.palette import Request
from mil_palettize.errors import AlgorithmError


def codes(array: np.ndarray, request: Request) -> tuple[np.ndarray, np.ndarray]:
    """Call ``lut_function`` with the array; gives its table in the weight's dtype and its indices, int64.

    Entries for a weight of whole numbers (``array`` is int32) have to be whole and such that its dtype holds them. With
    ``cluster_dim`` above 1 the table is (entries, cluster_dim), with one index per vector.

    Raises ``AlgorithmError`` saying what is wrong with the result, or that the function failed (chained).
    """
    name = request.source.name
    lut_function = request.specification.lut_function
    if lut_function is None:
        raise AlgorithmError(f"weight '{name}': mode 'custom' needs a lut_function")
    dtype, count = request.source.dtype, array.size // request.cluster_dim
    try:
        result = lut_function(array)
    except Exception as error:
        raise AlgorithmError(
            f"weight '{name}': lut_function raised {type(error).__name__}: {error}".replace("\n", " ")
        ) from error
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise _wrong(name, f"returned {_kind(result)}; return a pair (lut, indices)")
    lut = _table(name, result[0], dtype, 1 << request.most_nbits, request.cluster_dim)
    return lut, _indices(name, result[1], count, len(lut), "elements" if request.cluster_dim == 1 else "vectors")


def _wrong(name: str, what: str) -> AlgorithmError:
    return AlgorithmError(f"weight '{name}': lut_function {what}")


def _kind(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of length {len(value)}"
    return type(value).__name__


def _array(name: str, what: str, value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError as error:
        raise _wrong(name, f"returned {what} that are not an array: {error}") from error


def _table(name: str, value: Any, dtype: np.dtype, limit: int, dim: int) -> np.ndarray:
    lut = _array(name, "entries", value)
    if lut.shape[1:] != (() if dim == 1 else (dim,)) or lut.ndim == 0 or lut.dtype.kind not in "fiu":
        wanted = "in one dimension" if dim == 1 else f"of shape (entries, {dim})"
        raise _wrong(name, f"returned a lut of {lut.dtype}{list(lut.shape)}; it must be real numbers {wanted}")
    if not 1 <= len(lut) <= limit:
        raise _wrong(name, f"returned a lut of {len(lut)} entries; it may have 1 to {limit}")
    if dtype.kind in "iu":
        return _whole(name, lut, dtype)
    with np.errstate(over="ignore"):
        stored = lut.astype(dtype)
    bad = np.flatnonzero(~np.isfinite(stored.reshape(len(lut), -1)).all(axis=1))
    if bad.size:
        raise _wrong(name, f"returned a lut with entry {bad[0]} = {lut[bad[0]]}, which is not finite as {dtype}")
    return stored


def _whole(name: str, lut: np.ndarray, dtype: np.dtype) -> np.ndarray:
    limits = np.iinfo(dtype)
    bad = lut[~((lut >= limits.min) & (lut <= limits.max) & (lut == np.rint(lut)))]
    if bad.size:
        raise _wrong(name, f"returned a lut with entry {bad[0]}; use whole numbers from {limits.min} to {limits.max}")
    return lut.astype(dtype)


def _indices(name: str, value: Any, count: int, entries: int, what: str) -> np.ndarray:
    indices = _array(name, "indices", value)
    if indices.dtype.kind not in "iu":
        raise _wrong(name, f"returned indices of {indices.dtype}; they must be integers")
    if indices.size != count:
        raise _wrong(name, f"returned {indices.size} indices for {count} {what}")
    flat = indices.reshape(-1)
    outside = np.flatnonzero((flat < 0) | (flat >= entries))
    if outside.size:
        raise _wrong(name, f"returned index {flat[outside[0]]} for a lut of {entries} entries")
    return flat.astype(np.int64)
