"""Compressed constants read back: ``constexpr_*`` ops, alone or bound to each other, to a :data:`WeightExpr`.

The op forms are those of coremltools ``ops/defs/iOS16/constexpr_ops.py`` (parameters are attributes, bits packed into
uint8) and ``iOS18/compression.py`` (parameters are inputs: values in place, or names of other constant ops).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from mil_palettize.errors import BlobError
from mil_palettize.expressions.legal_nbits import LEGAL_NBITS
from mil_palettize.expressions.packed import Packed
from mil_palettize.expressions.weight_expr import Cast, Const, Lut, Scale, Sparse, WeightExpr
from mil_palettize.program.scopes import MOST_PARTS, Node, is_constant_op
from mil_palettize.program.store import Store
from mil_palettize.program.values import (
    MIL,
    NUMPY_TYPES,
    SUB_BYTE_TYPES,
    UINT_TYPES,
    immediate_array,
    scalar,
    static_shape,
    type_name,
)

# Op type -> parameters an op of it needs.
_NEEDED = {
    "const": ("val",),
    "constexpr_cast": ("source_val",),
    "constexpr_lut_to_dense": ("indices", "lut"),
    "constexpr_affine_dequantize": ("quantized_data", "scale", "zero_point", "axis"),
    "constexpr_sparse_to_dense": ("nonzero_data", "mask"),
    "constexpr_blockwise_shift_scale": ("data", "scale"),
    "constexpr_lut_to_sparse": ("indices_mask", "indices_nonzero_data", "lut"),
    "constexpr_sparse_blockwise_shift_scale": ("data_mask", "nonzero_data", "scale"),
}
_CAST_TYPES: dict[str, np.dtype] = {"fp32": np.dtype(np.float32), "fp16": np.dtype(np.float16)}
_OPTIONAL = ("offset", "vector_axis", "shape")
_CODE_BITS = {code: bits for bits, code in UINT_TYPES.items()}


class UnknownFormError(Exception):
    """The compressed form of a constant is none that is decoded here; the text says why."""


def unknown_form(op: MIL.Operation, sources: Mapping[str, Node]) -> str:
    """Why a constant op cannot be decoded, by its form alone: nothing is read. "" when it can.

    ``sources``: what its inputs bound by name read.
    """
    if op.type not in _NEEDED:
        return f"{op.type} is not known"
    if sum(source.parts for source in sources.values()) >= MOST_PARTS:
        return f"it is made from more than {MOST_PARTS} parts, one through the other"
    unresolved = _unresolved(op, sources)
    if unresolved:
        return unresolved
    values = dict(_values(op))
    missing = [name for name in _NEEDED[op.type] if name not in values and name not in sources]
    if missing:
        return f"{op.type} without {missing[0]}"
    for name, value in values.items():
        code = value.type.tensorType.dataType
        if name not in (*_NEEDED[op.type], *_OPTIONAL):
            continue
        if static_shape(value.type) is None or (code not in NUMPY_TYPES and code not in SUB_BYTE_TYPES):
            return f"{name} of {op.type} holds {type_name(code)} values"
    if op.type == "constexpr_cast" and scalar(values.get("output_dtype", MIL.Value())) not in _CAST_TYPES:
        return "constexpr_cast to an unknown type"
    for name, node in sources.items():
        if node.op is None or not is_constant_op(node.op.type):
            return f"{name} of {op.type} reads {node.name!r}, which is no constant"
        inner = unknown_form(node.op, node.sources)
        if inner:
            return inner
    return ""


def _unresolved(op: MIL.Operation, sources: Mapping[str, Node]) -> str:
    """Which parameter stands for nothing, for several things, or for something that no op of this type knows."""
    known = {*_NEEDED[op.type], *_OPTIONAL, "name", "output_dtype"}
    for name, argument in sorted(op.inputs.items()):
        bindings = argument.arguments
        if len(bindings) != 1:
            return f"{name} of {op.type} is bound to {len(bindings)} values, not to one"
        if name in op.attributes:
            return f"{name} of {op.type} is both an input and an attribute"
        binding = bindings[0].WhichOneof("binding")
        if binding is None or (binding == "name" and name not in sources):
            read = repr(bindings[0].name) if binding else "nothing"
            return f"{name} of {op.type} reads {read}, which no op before it makes"
    strange = sorted({*op.attributes, *op.inputs} - known)
    if strange:
        return f"{op.type} with {strange[0]}, which is not known"
    if op.type != "const" and "name" in op.attributes and not isinstance(scalar(op.attributes["name"]), str):
        return f"the name of {op.type} is no text in the program"
    return f"{op.type} with blocks" if op.blocks else ""


def read_expression(op: MIL.Operation, sources: Mapping[str, Node], store: Store, *, used_by: str) -> WeightExpr:
    """What the first output of a constant op is stored as. ``used_by``: the weight, for errors.

    Raises UnknownFormError for a form that is not decoded here, BlobError when parts are damaged or do not fit
    together or the output's type.
    """
    reason = unknown_form(op, sources)
    if reason:
        raise UnknownFormError(reason)
    try:
        expr = _Reader(op, sources, store, used_by).read()
    except BlobError:
        raise
    except ValueError as error:
        raise BlobError(f"the parts of the compressed weight {used_by!r} do not fit together: {error}") from error
    _check_declared(expr, op.outputs[0].type, used_by)
    return expr


def parameter_type(op: MIL.Operation, sources: Mapping[str, Node], name: str) -> MIL.ValueType:
    """The type of a parameter, wherever it stands; an empty one when it is missing."""
    if name in sources:
        return sources[name].type
    return dict(_values(op)).get(name, MIL.Value()).type


def _values(op: MIL.Operation) -> Iterator[tuple[str, MIL.Value]]:
    """Parameters that stand in the op itself."""
    for name, value in op.attributes.items():
        yield name, value
    for name, argument in op.inputs.items():
        if len(argument.arguments) == 1 and argument.arguments[0].WhichOneof("binding") == "value":
            yield name, argument.arguments[0].value


def _check_declared(expr: WeightExpr, declared: MIL.ValueType, used_by: str) -> None:
    shape, code = static_shape(declared), declared.tensorType.dataType
    dtype = _numpy_type(code)
    if shape != expr.shape or dtype != expr.dtype:
        raise BlobError(
            f"{used_by!r} is declared as {type_name(code)} {list(shape or ())}, but its parts make "
            f"{expr.dtype}{list(expr.shape)}; the package is damaged: save it again"
        )


def _numpy_type(code: int) -> np.dtype | None:
    """Of one element; types smaller than a byte take one."""
    if code in SUB_BYTE_TYPES:
        return np.dtype(np.int8 if SUB_BYTE_TYPES[code][1] else np.uint8)
    return NUMPY_TYPES.get(code)


class _Reader:
    """One op's parameters, whether in place or from other ops; its form has been checked."""

    def __init__(self, op: MIL.Operation, sources: Mapping[str, Node], store: Store, used_by: str) -> None:
        self.op, self.sources, self.store, self.used_by = op, sources, store, used_by
        self.values = dict(_values(op))

    def read(self, output: int = 0) -> WeightExpr:
        """Output number ``output``; ops that give sparse data have two, the mask and the values."""
        if self.op.type in _SPARSE_READERS:
            sparse = self.sparse()
            if output == 0:
                return Const(Packed.pack(sparse.dense_mask().view(np.uint8), 1))
            return Const(sparse.nonzeros())
        return _READERS[self.op.type](self)

    def sparse(self) -> Sparse:
        """The result of an op that gives sparse data."""
        return _SPARSE_READERS[self.op.type](self)

    def has(self, name: str) -> bool:
        return name in self.values or name in self.sources

    def source(self, name: str) -> tuple[_Reader, int] | None:
        """The op a parameter is bound to, and which of its outputs."""
        node = self.sources.get(name)
        if node is None:
            return None
        assert node.op is not None
        return _Reader(node.op, node.sources, self.store, self.used_by), node.results.index(node)

    def expr(self, name: str) -> WeightExpr:
        bound = self.source(name)
        return bound[0].read(bound[1]) if bound is not None else self._const(self.values[name])

    def array(self, name: str) -> np.ndarray:
        return self.expr(name).decode()

    def part(self, name: str) -> np.ndarray | WeightExpr:
        """A table, scale or offset: an array where it is one, what it is stored as otherwise."""
        expr = self.expr(name)
        return expr.array if isinstance(expr, Const) and isinstance(expr.array, np.ndarray) else expr

    def integer(self, name: str) -> int:
        array = self.array(name)
        if array.size != 1 or array.dtype.kind not in "iu":
            raise ValueError(f"{name} is {array.dtype}{list(array.shape)}, not one whole number")
        return int(array.reshape(-1)[0])

    def shape(self) -> tuple[int, ...] | None:
        """Attribute ``shape`` of the iOS16 forms, None in others."""
        if "shape" not in self.values:
            return None
        array = immediate_array(self.values["shape"])
        if array is None:
            raise ValueError("its attribute shape holds no numbers")
        return tuple(int(n) for n in array.reshape(-1))

    def packed(self, name: str) -> Packed:
        """A parameter of whole numbers, in the bits of its type: indices, a mask."""
        code = parameter_type(self.op, self.sources, name).tensorType.dataType
        if code not in _CODE_BITS:
            raise ValueError(f"{name} holds {type_name(code)} values")
        expr = self.expr(name)
        if isinstance(expr, Const) and isinstance(expr.array, Packed):
            return expr.array
        return Packed.pack(expr.decode(), _CODE_BITS[code])

    def bits(self, name: str, nbits: int, shape: tuple[int, ...]) -> Packed:
        """Bits packed into uint8, as iOS16 has them."""
        return Packed(self.array(name).reshape(-1), nbits, shape)

    def _const(self, value: MIL.Value) -> Const:
        code = value.type.tensorType.dataType
        shape = static_shape(value.type)
        assert shape is not None
        if code not in SUB_BYTE_TYPES:
            return Const(self.store.array(value, used_by=self.used_by))
        nbits, signed = SUB_BYTE_TYPES[code]
        return Const(self.store.packed(value, nbits, shape, used_by=self.used_by, signed=signed))


def _const(op: _Reader) -> WeightExpr:
    return op.expr("val")


def _cast(op: _Reader) -> WeightExpr:
    return Cast(op.expr("source_val"), _CAST_TYPES[str(scalar(op.values["output_dtype"]))])


def _lut_to_dense(op: _Reader) -> WeightExpr:
    shape = op.shape()
    if shape is None:
        return _typed_lut(op, op.packed("indices"))
    lut = op.array("lut").reshape(-1)
    nbits = int(lut.size).bit_length() - 1
    if nbits not in LEGAL_NBITS or lut.size != 1 << nbits:
        raise ValueError(f"the look-up table has {lut.size} entries, not a power of two")
    return Lut(op.bits("indices", nbits, shape), lut.reshape((1,) * len(shape) + (-1, 1)))


def _typed_lut(op: _Reader, indices: Packed) -> Lut:
    lut = op.part("lut")
    if lut.shape[-1:] == (1,) or not op.has("vector_axis"):
        return Lut(indices, lut)
    axis = op.integer("vector_axis")
    return Lut(indices, lut, axis + len(indices.shape) if axis < 0 else axis)


def _affine(op: _Reader) -> WeightExpr:
    data = op.expr("quantized_data")
    rank, axis = len(data.shape), op.integer("axis")
    if not -rank <= axis < max(rank, 1):
        raise ValueError(f"axis {axis} is none of {rank} axes")

    def spread(table: np.ndarray) -> np.ndarray:
        if table.ndim == rank:
            return table
        if table.ndim > 1:
            raise ValueError(f"a scale or zero point of shape {table.shape}, not a number or a vector")
        return table.reshape([-1 if i == axis % rank else 1 for i in range(rank)])

    return Scale(data, spread(op.array("scale")), spread(op.array("zero_point")), affine=True)


def _shift_scale(op: _Reader) -> WeightExpr:
    return _blockwise(op, op.expr("data"))


def _blockwise(op: _Reader, data: WeightExpr) -> Scale:
    scale = op.part("scale")
    offset = op.part("offset") if op.has("offset") else None
    if offset is not None and offset.shape != scale.shape:
        raise ValueError(f"scale of shape {scale.shape} and offset of shape {offset.shape}")
    return Scale(data, scale, offset)


def _sparse_to_dense(op: _Reader) -> WeightExpr:
    inner = _sparse_source(op, "nonzero_data", "mask")
    if inner is not None:
        return inner
    shape = op.shape()
    mask = op.packed("mask") if shape is None else op.bits("mask", 1, shape)
    return Sparse(op.expr("nonzero_data"), mask)


def _sparse_source(op: _Reader, values: str, mask: str) -> Sparse | None:
    """The sparse result both parameters are bound to; None when they come from elsewhere, or from two places."""
    bound, of_mask = op.source(values), op.source(mask)
    if bound is None or bound[0].op.type not in _SPARSE_READERS or bound[1] != 1:
        return None
    same_op = of_mask is not None and of_mask[0].op is bound[0].op and of_mask[1] == 0
    inner = bound[0].sparse()
    return inner if same_op or np.array_equal(op.packed(mask).unpack(), inner.dense_mask()) else None


def _lut_to_sparse(op: _Reader) -> Sparse:
    mask = op.packed("indices_mask")
    indices = _scatter(Const(op.packed("indices_nonzero_data")), mask).array
    assert isinstance(indices, Packed)
    return Sparse(_typed_lut(op, indices), mask)


def _sparse_shift_scale(op: _Reader) -> Sparse:
    inner = _sparse_source(op, "nonzero_data", "data_mask")
    if inner is not None and inner.data.stored_shape == inner.mask.shape:
        return Sparse(_blockwise(op, inner.data), inner.mask)
    mask = op.packed("data_mask")
    return Sparse(_blockwise(op, _scatter(op.expr("nonzero_data"), mask)), mask)


def _scatter(nonzeros: WeightExpr, mask: Packed) -> Const:
    """Values put where the mask is set, zeros elsewhere, in the same bits."""
    dense = Sparse(Const(nonzeros.decode().reshape(-1)), mask).decode()
    packed = nonzeros.array if isinstance(nonzeros, Const) and isinstance(nonzeros.array, Packed) else None
    return Const(dense if packed is None else Packed.pack(dense, packed.nbits, signed=packed.signed))


_READERS: dict[str, Callable[[_Reader], WeightExpr]] = {
    "const": _const,
    "constexpr_cast": _cast,
    "constexpr_lut_to_dense": _lut_to_dense,
    "constexpr_affine_dequantize": _affine,
    "constexpr_sparse_to_dense": _sparse_to_dense,
    "constexpr_blockwise_shift_scale": _shift_scale,
}
_SPARSE_READERS: dict[str, Callable[[_Reader], Sparse]] = {
    "constexpr_lut_to_sparse": _lut_to_sparse,
    "constexpr_sparse_blockwise_shift_scale": _sparse_shift_scale,
}
