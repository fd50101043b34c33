"""What constants stand for, decoded here: a judge shares no code with what it judges.

Formats: coremltools ``mlmodel/format/MIL.proto`` and the docstrings of ``ops/defs/iOS16/constexpr_ops.py`` and
``ops/defs/iOS18/compression.py``. Numbers of fewer than eight bits lie without gaps, least significant bit first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from mil_palettize.errors import EvaluationError, PackageError, PalettizeError
from mil_palettize.program.op_names import op_name
from mil_palettize.program.store import Store
from mil_palettize.program.values import MIL, NUMPY_TYPES, SUB_BYTE_TYPES, static_shape
from mil_palettize.text import format_count
from mil_palettize.torch.evaluator.memory import claim_bytes, one_line

_BFLOAT16 = MIL.DataType.Value("BFLOAT16")
_STRING = MIL.DataType.Value("STRING")
_UNPACKED_AT_ONCE = 1 << 20  # a multiple of 8
_DEEPEST = 8  # constants made of constants; the format has uses for three
Scope = Mapping[str, MIL.Operation]


def value_array(value: MIL.Value, store: Store, owner: str) -> np.ndarray:
    """A tensor value as an array; numbers of fewer than eight bits as int8 or uint8, bfloat16 as float32, strings as
    objects, a list of tensors as a 1-D array of what is in it. ``owner``: for errors, which are PackageErrors."""
    if value.WhichOneof("value") == "immediateValue" and value.immediateValue.WhichOneof("value") == "list":
        return np.array([value_array(v, store, owner)[()] for v in value.immediateValue.list.values], object)
    shape, data_type = static_shape(value.type), value.type.tensorType.dataType
    if shape is None:
        raise PackageError(f"the value of {owner!r} has no fixed shape")
    if data_type == _STRING:
        return np.array(list(value.immediateValue.tensor.strings.values), object).reshape(shape)
    if data_type == _BFLOAT16:
        wide = store.raw(value, used_by=owner).view("<u2").astype(np.uint32) << np.uint32(16)
        return wide.view(np.float32).reshape(shape)
    if data_type in SUB_BYTE_TYPES:
        nbits, signed = SUB_BYTE_TYPES[data_type]
        return _unpacked(store.raw(value, used_by=owner), nbits, math.prod(shape), signed).reshape(shape)
    if data_type not in NUMPY_TYPES:
        raise PackageError(f"the value of {owner!r} is of a type that is not known ({data_type})")
    return store.array(value, used_by=owner)


def constant_array(op: MIL.Operation, scope: Scope, store: Store, output: int = 0) -> np.ndarray:
    """Output number ``output`` of a ``const`` or ``constexpr_*`` op, dense. ``scope``: constant ops by the names of
    their outputs. Raises PackageError for a form that is not known and for data that do not fit together,
    EvaluationError where memory lacks."""
    try:
        return _constant(op, scope, store, output, ())
    except MemoryError as error:
        raise EvaluationError(f"constant {op_name(op)!r} ({op.type}) cannot be decoded: {one_line(error)}") from error
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, ZeroDivisionError) as error:
        if isinstance(error, PalettizeError):
            raise
        raise PackageError(f"constant {op_name(op)!r} ({op.type}) cannot be decoded: {one_line(error)}") from error


def _constant(
    op: MIL.Operation, scope: Scope, store: Store, output: int, readers: tuple[MIL.Operation, ...]
) -> np.ndarray:
    """``readers``: the constants that are decoded from this one."""
    if len(readers) > _DEEPEST:
        raise PackageError(
            f"{op_name(readers[0])!r} is made of constants that are made of others, over {_DEEPEST} deep or in a circle"
        )
    if op.type == "const":
        return value_array(op.attributes["val"], store, op_name(op))
    if op.type not in _DECODERS:
        raise PackageError(f"{op_name(op)!r} is a {op.type}, a form of constant that is not known to this version")
    return _DECODERS[op.type](_Parameters(op, scope, store, (*readers, op)))[output]


def _unpacked(data: np.ndarray, nbits: int, count: int, signed: bool) -> np.ndarray:
    if data.size * 8 < count * nbits:
        raise ValueError(f"{count} numbers of {format_count(nbits, 'bit')} in {format_count(data.size, 'byte')}")
    claim_bytes(count)
    found = np.empty(count, np.uint8)
    powers = (1 << np.arange(nbits)).astype(np.uint8)
    for start in range(0, count, _UNPACKED_AT_ONCE):
        stop = min(start + _UNPACKED_AT_ONCE, count)
        bits = np.unpackbits(data[start * nbits // 8 : -(-stop * nbits // 8)], bitorder="little")
        found[start:stop] = bits[: (stop - start) * nbits].reshape(-1, nbits) @ powers
    if not signed:
        return found
    top = np.uint8(1 << (nbits - 1))
    return (found ^ top).view(np.int8) - np.int8(1 << (nbits - 1))


class _Parameters:
    """An op's parameters, attributes (iOS16) or inputs (iOS18), decoded when read."""

    def __init__(self, op: MIL.Operation, scope: Scope, store: Store, readers: tuple[MIL.Operation, ...]) -> None:
        self.op, self.scope, self.store, self.readers = op, scope, store, readers
        self._found: dict[str, np.ndarray] = {}

    def has(self, name: str) -> bool:
        return name in self.op.attributes or (name in self.op.inputs and len(self.op.inputs[name].arguments) > 0)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._found:
            self._found[name] = self._decoded(name)
        return self._found[name]

    def _decoded(self, name: str) -> np.ndarray:
        owner = op_name(self.op)
        if name in self.op.attributes:
            return value_array(self.op.attributes[name], self.store, owner)
        if not self.has(name):
            raise PackageError(f"{owner!r} ({self.op.type}) lacks its parameter {name!r}; the package is damaged")
        bindings = self.op.inputs[name].arguments
        if len(bindings) > 1:
            raise PackageError(f"{name} of {owner!r} ({self.op.type}) is bound to {len(bindings)} values, not to one")
        binding = bindings[0]
        if binding.WhichOneof("binding") == "value":
            return value_array(binding.value, self.store, owner)
        if binding.name not in self.scope:
            raise PackageError(f"{owner!r} ({self.op.type}) reads {binding.name!r}, which is no constant")
        source = self.scope[binding.name]
        position = [output.name for output in source.outputs].index(binding.name)
        return _constant(source, self.scope, self.store, position, self.readers)

    def flat_shape(self) -> tuple[int, ...] | None:
        """iOS16 stores the shape beside packed data."""
        return tuple(int(size) for size in self["shape"]) if self.has("shape") else None


def _blocks(part: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A number per block as a number per element."""
    claim_bytes(math.prod(shape) * part.itemsize)
    for axis, size in enumerate(shape):
        if part.shape[axis] != size:
            part = np.repeat(part, size // part.shape[axis], axis=axis)
    return part


def _looked_up(indices: np.ndarray, lut: np.ndarray, vector_axis: int) -> np.ndarray:
    """Tables ``lut`` (blocks..., entries, vector) at ``indices``; a vector's elements follow each other on an axis."""
    *blocks, entries, vector = lut.shape
    number = np.arange(math.prod(blocks)).reshape(blocks) * entries
    flat = lut.reshape(-1, vector)
    claim_bytes(indices.size * vector * lut.itemsize)
    found = np.empty((*indices.shape, vector), lut.dtype)
    if len(indices) % number.shape[0]:
        raise ValueError(f"{number.shape[0]} tables for {len(indices)} rows")
    rows = max(1, _UNPACKED_AT_ONCE * len(indices) // max(1, indices.size))
    for start in range(0, len(indices), rows):  # their places take eight bytes each
        some = indices[start : start + rows]
        tables = number[np.arange(start, start + len(some)) * number.shape[0] // len(indices)]
        found[start : start + rows] = flat[some.astype(np.intp) + _blocks(tables, some.shape)]
    axis = vector_axis % indices.ndim
    shape = [size * (vector if a == axis else 1) for a, size in enumerate(indices.shape)]
    return np.moveaxis(found, -1, axis + 1).reshape(shape)


def _lut_to_dense(p: _Parameters) -> list[np.ndarray]:
    lut, shape = p["lut"], p.flat_shape()
    if shape is None:
        return [_looked_up(p["indices"], lut, int(p["vector_axis"]) if p.has("vector_axis") else 0)]
    nbits = max(1, (lut.size - 1).bit_length())
    return [lut[_unpacked(p["indices"].reshape(-1), nbits, math.prod(shape), False)].reshape(shape)]


def _put(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    claim_bytes(mask.size * values.itemsize)
    dense = np.zeros(mask.shape, values.dtype)
    dense[mask.astype(bool)] = values
    return dense


def _sparse_to_dense(p: _Parameters) -> list[np.ndarray]:
    mask, shape = p["mask"], p.flat_shape()
    if shape is not None:
        mask = _unpacked(mask.reshape(-1), 1, math.prod(shape), False).reshape(shape)
    return [_put(p["nonzero_data"], mask)]


def _affine_dequantize(p: _Parameters) -> list[np.ndarray]:
    data, scale, zero = p["quantized_data"], p["scale"], p["zero_point"]
    shape = [size if axis == int(p["axis"]) % data.ndim else 1 for axis, size in enumerate(data.shape)]
    wide = [part.astype(np.float64).reshape(shape if part.ndim else ()) for part in (zero, scale)]
    return [((data.astype(np.float64) - wide[0]) * wide[1]).astype(scale.dtype)]


def _scaled(data: np.ndarray, p: _Parameters) -> np.ndarray:
    scale = p["scale"]
    offset = _blocks(p["offset"].astype(np.float64), data.shape) if p.has("offset") else 0.0
    return ((data.astype(np.float64) - offset) * _blocks(scale, data.shape)).astype(scale.dtype)


def _sparse_shift_scale(p: _Parameters) -> list[np.ndarray]:
    mask = p["data_mask"]
    return [mask, _scaled(_put(p["nonzero_data"], mask), p)[mask.astype(bool)]]


def _lut_to_sparse(p: _Parameters) -> list[np.ndarray]:
    mask, lut = p["indices_mask"], p["lut"]
    axis = int(p["vector_axis"]) if p.has("vector_axis") else 0
    dense = _looked_up(_put(p["indices_nonzero_data"], mask), lut, axis)
    mask = np.repeat(mask, lut.shape[-1], axis=axis)
    return [mask, dense[mask.astype(bool)]]


def _cast(p: _Parameters) -> list[np.ndarray]:
    return [p["source_val"].astype({"fp16": np.float16, "fp32": np.float32}[str(p["output_dtype"][()])])]


_DECODERS: dict[str, Callable[[_Parameters], list[np.ndarray]]] = {
    "constexpr_affine_dequantize": _affine_dequantize,
    "constexpr_blockwise_shift_scale": lambda p: [_scaled(p["data"], p)],
    "constexpr_cast": _cast,
    "constexpr_lut_to_dense": _lut_to_dense,
    "constexpr_lut_to_sparse": _lut_to_sparse,
    "constexpr_sparse_blockwise_shift_scale": _sparse_shift_scale,
    "constexpr_sparse_to_dense": _sparse_to_dense,
}
CONSTANT_OPS = frozenset({"const", *_DECODERS})
