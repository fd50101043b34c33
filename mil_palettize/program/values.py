"""``MIL_pb2.Value`` messages to numpy arrays and back (source: coremltools ``mlmodel/format/MIL.proto``).

Data stored in a blob file is described here (:func:`blob_value`) but never read: see ``package/blob.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mil_palettize.expressions.packed import can_hold
from mil_palettize.program.messages import MIL

DT = MIL.DataType

# MIL data type -> (blob data type code of MILBlob/Blob/BlobDataType.hpp, bits per element).
BLOB_TYPES: dict[int, tuple[int, int]] = {
    DT.Value("FLOAT16"): (1, 16), DT.Value("FLOAT32"): (2, 32), DT.Value("UINT8"): (3, 8),
    DT.Value("INT8"): (4, 8), DT.Value("BFLOAT16"): (5, 16), DT.Value("INT16"): (6, 16),
    DT.Value("UINT16"): (7, 16), DT.Value("INT4"): (8, 4), DT.Value("UINT1"): (9, 1),
    DT.Value("UINT2"): (10, 2), DT.Value("UINT4"): (11, 4), DT.Value("UINT3"): (12, 3),
    DT.Value("UINT6"): (13, 6), DT.Value("INT32"): (14, 32), DT.Value("UINT32"): (15, 32),
    DT.Value("FLOAT8E4M3FN"): (16, 8), DT.Value("FLOAT8E5M2"): (17, 8),
}  # fmt: skip

# MIL data type -> numpy dtype, for those numpy can hold one element per item.
NUMPY_TYPES: dict[int, np.dtype] = {
    DT.Value("BOOL"): np.dtype(bool), DT.Value("FLOAT16"): np.dtype("<f2"),
    DT.Value("FLOAT32"): np.dtype("<f4"), DT.Value("FLOAT64"): np.dtype("<f8"),
    DT.Value("INT8"): np.dtype("i1"), DT.Value("UINT8"): np.dtype("u1"),
    DT.Value("INT16"): np.dtype("<i2"), DT.Value("UINT16"): np.dtype("<u2"),
    DT.Value("INT32"): np.dtype("<i4"), DT.Value("UINT32"): np.dtype("<u4"),
    DT.Value("INT64"): np.dtype("<i8"), DT.Value("UINT64"): np.dtype("<u8"),
}  # fmt: skip
MIL_TYPES: dict[np.dtype, int] = {dtype: mil for mil, dtype in NUMPY_TYPES.items()}

# Palette indices: bits -> MIL data type.
UINT_TYPES: dict[int, int] = {bits: DT.Value(f"UINT{bits}") for bits in (1, 2, 3, 4, 6, 8)}

# Types smaller than a byte: MIL data type -> (bits, signed).
SUB_BYTE_TYPES: dict[int, tuple[int, bool]] = {
    data_type: (bits, False) for bits, data_type in UINT_TYPES.items() if bits < 8
} | {DT.Value("INT4"): (4, True)}

_BYTES_TYPES = {DT.Value(n) for n in ("FLOAT16", "INT8", "UINT8", "UINT32")} | set(UINT_TYPES.values())
# coremltools keeps values of fewer elements inside the program (``should_use_weight_file``).
MIN_BLOB_ELEMENTS = 10


def type_name(data_type: int) -> str:
    """``fp16``, ``int32``, ... as coremltools prints MIL types; ``type<n>`` for one not known here."""
    try:
        name = DT.Name(data_type).lower()
    except ValueError:
        return f"type<{data_type}>"
    return {"float16": "fp16", "float32": "fp32", "float64": "fp64", "bfloat16": "bf16"}.get(name, name)


def tensor_type(shape: Sequence[int], data_type: int) -> MIL.ValueType:
    """The type of a tensor of known ``shape``."""
    value_type = MIL.ValueType()
    tensor = value_type.tensorType
    tensor.dataType = data_type
    tensor.rank = len(shape)
    for size in shape:
        tensor.dimensions.add().constant.size = int(size)
    return value_type


def static_shape(value_type: MIL.ValueType) -> tuple[int, ...] | None:
    """The shape of a tensor type, or None when it is no tensor or a dimension is not a constant."""
    if value_type.WhichOneof("type") != "tensorType":
        return None
    dimensions = value_type.tensorType.dimensions
    shape = tuple([dimension.constant.size for dimension in dimensions])
    if 0 in shape and any(dimension.WhichOneof("dimension") != "constant" for dimension in dimensions):
        return None
    return shape


def value_nbytes(value: MIL.Value) -> int:
    """Bytes of a tensor value's data by its type, 0 for anything else."""
    shape = static_shape(value.type)
    if shape is None:
        return 0
    data_type = value.type.tensorType.dataType
    if data_type in BLOB_TYPES:
        bits = BLOB_TYPES[data_type][1]
    else:
        bits = NUMPY_TYPES[data_type].itemsize * 8 if data_type in NUMPY_TYPES else 0
    return (math.prod(shape) * bits + 7) // 8


def string_value(text: str) -> MIL.Value:
    """A rank-0 string, as op attribute ``name`` holds it."""
    value = MIL.Value(type=tensor_type((), DT.Value("STRING")))
    value.immediateValue.tensor.strings.values.append(text)
    return value


def blob_value(file_name: str, offset: int, shape: Sequence[int], data_type: int) -> MIL.Value:
    """A tensor stored in a blob file; ``offset`` is that of its metadata record."""
    value = MIL.Value(type=tensor_type(shape, data_type))
    value.blobFileValue.fileName = file_name
    value.blobFileValue.offset = offset
    return value


def immediate_value(array: np.ndarray) -> MIL.Value:
    """``array`` stored in the program itself, in the field coremltools uses for its dtype."""
    data_type = MIL_TYPES[array.dtype]
    value = MIL.Value(type=tensor_type(array.shape, data_type))
    tensor = value.immediateValue.tensor
    if data_type in _BYTES_TYPES:
        tensor.bytes.values = np.ascontiguousarray(array).tobytes()
        return value
    field = {"b": "bools", "f": "floats", "i": "ints", "u": "ints"}[array.dtype.kind]
    if array.dtype.itemsize == 8:
        field = "doubles" if array.dtype.kind == "f" else "longInts"
    stored = getattr(tensor, field)
    stored.SetInParent()
    stored.values.extend(array.reshape(-1).tolist())
    return value


def immediate_array(value: MIL.Value) -> np.ndarray | None:
    """The array an immediate tensor value holds; None when it is in a blob file, a list, of strings, or
    of a type numpy has no dtype for."""
    if value.WhichOneof("value") != "immediateValue" or value.immediateValue.WhichOneof("value") != "tensor":
        return None
    shape = static_shape(value.type)
    dtype = NUMPY_TYPES.get(value.type.tensorType.dataType)
    tensor = value.immediateValue.tensor
    field = tensor.WhichOneof("value")
    if shape is None or dtype is None or field == "strings" or not can_hold(shape):
        return None
    if field is None:
        flat = np.zeros(0, dtype)
    elif field == "bytes":
        raw = tensor.bytes.values
        flat = np.frombuffer(raw, dtype, count=len(raw) // dtype.itemsize)
    else:
        flat = np.array(getattr(tensor, field).values, dtype=dtype)
    count = math.prod(shape)
    return flat.reshape(shape) if flat.size == count else None


def scalar(value: MIL.Value) -> object:
    """The Python scalar of an immediate value of one element (``True``, ``3``, ``"fp16"``), else None."""
    tensor = value.immediateValue.tensor
    if tensor.WhichOneof("value") == "strings":
        return tensor.strings.values[0] if len(tensor.strings.values) == 1 else None
    array = immediate_array(value)
    return array.reshape(-1)[0].item() if array is not None and array.size == 1 else None
