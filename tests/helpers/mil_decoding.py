"""The independent reader's lower half: files, blob records, values and constant ops (see ``packages.py``).

Formats: ``mlmodel/format/MIL.proto``, ``mlmodel/src/MILBlob/Blob/StorageFormat.hpp``, and the docstrings of
``constexpr_*`` in ``ops/defs/iOS16/constexpr_ops.py`` and ``iOS18/compression.py``, all of coremltools.
Written for clearness: nothing is cached and whole records are read.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from coremltools.proto import MIL_pb2 as MIL
from coremltools.proto import Model_pb2

# MIL type name -> numpy dtype of one element, for whole-byte types.
DTYPES = {
    "BOOL": "?", "FLOAT16": "<f2", "FLOAT32": "<f4", "FLOAT64": "<f8",
    "INT8": "i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8",
    "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8",
}  # fmt: skip
# MIL type name -> (bits, signed), for types smaller than a byte or not a divisor of one.
SUB_BYTE = {
    "UINT1": (1, False), "UINT2": (2, False), "UINT3": (3, False), "UINT4": (4, False),
    "UINT6": (6, False), "INT4": (4, True),
}  # fmt: skip
# Data type codes of blob records, of BlobDataType.hpp.
BLOB_CODES = {
    "FLOAT16": 1, "FLOAT32": 2, "UINT8": 3, "INT8": 4, "BFLOAT16": 5, "INT16": 6, "UINT16": 7, "INT4": 8,
    "UINT1": 9, "UINT2": 10, "UINT4": 11, "UINT3": 12, "UINT6": 13, "INT32": 14, "UINT32": 15,
    "FLOAT8E4M3FN": 16, "FLOAT8E5M2": 17,
}  # fmt: skip

Scope = Mapping[str, MIL.Operation]


def manifest(path: Path) -> dict:
    """``Manifest.json``."""
    return json.loads((Path(path) / "Manifest.json").read_text())


def spec_file(path: Path) -> Path:
    """The file of the root model."""
    content = manifest(path)
    item = content["itemInfoEntries"][content["rootModelIdentifier"]]
    return Path(path) / "Data" / item["path"]


def weights_dir(path: Path) -> Path:
    """The folder coremltools keeps weight files in."""
    return spec_file(path).parent / "weights"


def read_spec(path: Path) -> Model_pb2.Model:
    """The root model."""
    spec = Model_pb2.Model()
    spec.ParseFromString(spec_file(path).read_bytes())
    return spec


def read_record(file: Path, metadata_offset: int) -> tuple[int, bytes, int]:
    """(data type code, bytes, padding bits) of the record whose metadata is at ``metadata_offset``.

    Raises AssertionError where the file breaks the format.
    """
    with open(file, "rb") as stream:
        count, version = struct.unpack("<II", stream.read(8))
        assert (version, count > 0) == (2, True), f"{file}: header: {count} blobs, version {version}"
        assert metadata_offset % 64 == 0, f"{file}: metadata offset {metadata_offset} is not 64-byte aligned"
        stream.seek(metadata_offset)
        raw = stream.read(64)
        assert len(raw) == 64, f"{file}: no metadata at {metadata_offset}"
        sentinel, code, size, offset, padding_bits = struct.unpack("<IIQQQ", raw[:32])
        assert sentinel == 0xDEADBEEF, f"{file}: sentinel {sentinel:#x} at {metadata_offset}"
        assert offset % 64 == 0, f"{file}: data offset {offset} is not 64-byte aligned"
        assert offset >= metadata_offset + 64, f"{file}: data of {metadata_offset} lies before its metadata"
        stream.seek(offset)
        data = stream.read(size)
    assert len(data) == size, f"{file}: {size} bytes at {offset} end outside the file"
    return code, data, padding_bits


def blob_file(value: MIL.Value, package: Path) -> Path:
    """The weight file a blob value names."""
    prefix, _, rest = value.blobFileValue.fileName.partition("/")
    assert prefix == "@model_path", value.blobFileValue.fileName
    return spec_file(package).parent / rest


# Values


def unpack(data: bytes, nbits: int, count: int, signed: bool = False) -> np.ndarray:
    """``count`` integers of ``nbits`` bits, least significant bit first, as uint8 (int8 where signed).

    Eight of them fill ``nbits`` bytes: each such word is read as one integer and shifted.
    """
    words = -(-count // 8)
    padded = np.frombuffer(data.ljust(words * nbits, b"\0")[: words * nbits], np.uint8).reshape(words, nbits)
    word = np.zeros(words, np.uint64)
    for byte in range(nbits):
        word |= padded[:, byte].astype(np.uint64) << np.uint64(8 * byte)
    columns = [(word >> np.uint64(i * nbits)) & np.uint64(2**nbits - 1) for i in range(8)]
    flat = np.stack(columns, axis=1).reshape(-1)[:count].astype(np.int16)
    if signed:
        flat = np.where(flat >= 2 ** (nbits - 1), flat - 2**nbits, flat)
    return flat.astype(np.int8 if signed else np.uint8)


def shape_of(value_type: MIL.ValueType) -> tuple[int, ...]:
    """The shape of a tensor type all of whose sizes are known."""
    return tuple(d.constant.size for d in value_type.tensorType.dimensions)


def decode_bytes(data: bytes, type_name: str, count: int) -> np.ndarray:
    """The flat array in ``data``; bfloat16 comes as float32."""
    if type_name in SUB_BYTE:
        nbits, signed = SUB_BYTE[type_name]
        assert len(data) == -(-count * nbits // 8), f"{len(data)} bytes for {count} of {type_name}"
        return unpack(data, nbits, count, signed)
    if type_name == "BFLOAT16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, DTYPES[type_name])


def decode_value(value: MIL.Value, package: Path) -> np.ndarray:
    """The array of an immediate or blob value; strings and lists come as arrays of objects."""
    kind = value.WhichOneof("value")
    if kind == "immediateValue" and value.immediateValue.WhichOneof("value") == "list":
        return np.array([decode_value(v, package)[()] for v in value.immediateValue.list.values], object)
    shape = shape_of(value.type)
    count = int(np.prod(shape, dtype=np.int64))
    type_name = MIL.DataType.Name(value.type.tensorType.dataType)
    if kind == "blobFileValue":
        code, data, padding_bits = read_record(blob_file(value, package), value.blobFileValue.offset)
        assert code == BLOB_CODES[type_name], f"record of code {code} read as {type_name}"
        if type_name in SUB_BYTE:
            assert len(data) * 8 - padding_bits == count * SUB_BYTE[type_name][0], "padding bits"
        flat = decode_bytes(data, type_name, count)
    else:
        tensor = value.immediateValue.tensor
        field = tensor.WhichOneof("value")
        if field == "bytes":
            flat = decode_bytes(tensor.bytes.values, type_name, count)
        elif field is None:
            flat = np.zeros(0, DTYPES[type_name])
        else:
            dtype = object if field == "strings" else DTYPES[type_name]
            flat = np.array(list(getattr(tensor, field).values), dtype)
    assert flat.size == count, f"{flat.size} elements for shape {shape}"
    return flat.reshape(shape)


# Ops


def decode_op(op: MIL.Operation, package: Path, scope: Scope | None = None, output: int = 0) -> np.ndarray:
    """Output number ``output`` of a ``const`` or ``constexpr_*`` op as a dense array.

    ``scope``: where inputs bound by name are looked up.
    """
    return np.asarray(DECODERS[op.type](_Parameters(op, package, scope or {}))[output])


class _Parameters:
    """Parameters of an op, whether attributes (iOS16) or inputs (iOS18), decoded on reading."""

    def __init__(self, op: MIL.Operation, package: Path, scope: Scope) -> None:
        self.op, self.package, self.scope = op, package, scope

    def __contains__(self, name: str) -> bool:
        return name in self.op.inputs or name in self.op.attributes

    def __getitem__(self, name: str) -> np.ndarray:
        if name in self.op.attributes:
            return decode_value(self.op.attributes[name], self.package)
        (binding,) = self.op.inputs[name].arguments
        if binding.WhichOneof("binding") == "value":
            return decode_value(binding.value, self.package)
        source = self.scope[binding.name]
        number = [o.name for o in source.outputs].index(binding.name)
        return decode_op(source, self.package, self.scope, number)


def _const(p: _Parameters) -> list[np.ndarray]:
    return [p["val"]]


def _spread(table: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Repeat each element of ``table`` until its first ``len(shape)`` axes are ``shape``."""
    for axis, size in enumerate(shape):
        assert size % table.shape[axis] == 0, f"{table.shape[axis]} groups over {size} elements"
        table = np.repeat(table, size // table.shape[axis], axis=axis)
    return table


def _lookup(indices: np.ndarray, lut: np.ndarray, vector_axis: int) -> np.ndarray:
    """iOS18: entry ``indices[x]`` of the table of x's group, its vector laid out along ``vector_axis``."""
    assert lut.ndim == indices.ndim + 2, f"a table of rank {lut.ndim} for indices of rank {indices.ndim}"
    tables = np.arange(int(np.prod(lut.shape[:-2]))).reshape(lut.shape[:-2])
    vectors = lut.reshape(-1, *lut.shape[-2:])[_spread(tables, indices.shape), indices]
    vector_axis %= indices.ndim
    shape = [size * (lut.shape[-1] if a == vector_axis else 1) for a, size in enumerate(indices.shape)]
    return np.moveaxis(vectors, -1, vector_axis + 1).reshape(shape)


def _lut_to_dense(p: _Parameters) -> list[np.ndarray]:
    lut = p["lut"]
    if "shape" not in p:
        return [_lookup(p["indices"], lut, int(p["vector_axis"]) if "vector_axis" in p else 0)]
    shape = p["shape"].astype(int)
    nbits = lut.size.bit_length() - 1
    assert lut.size == 2**nbits
    assert p["indices"].size == -(-int(shape.prod()) * nbits // 8)
    return [lut[unpack(p["indices"].tobytes(), nbits, int(shape.prod()))].reshape(shape)]


def _sparse_to_dense(p: _Parameters) -> list[np.ndarray]:
    data, mask = p["nonzero_data"], p["mask"]
    if "shape" in p:
        shape = p["shape"].astype(int)
        mask = unpack(mask.tobytes(), 1, int(shape.prod())).reshape(shape)
    return [_scatter(data, mask)]


def _scatter(data: np.ndarray, mask: np.ndarray) -> np.ndarray:
    dense = np.zeros(mask.shape, data.dtype)
    dense[mask.astype(bool)] = data
    return dense


def _affine(p: _Parameters) -> list[np.ndarray]:
    data, axis = p["quantized_data"], int(p["axis"])
    shape = [-1 if a == axis % data.ndim else 1 for a in range(data.ndim)]
    scale = p["scale"] if p["scale"].ndim == 0 else p["scale"].reshape(shape)
    offset = p["zero_point"] if p["zero_point"].ndim == 0 else p["zero_point"].reshape(shape)
    return [((data.astype(np.float64) - offset) * scale).astype(p["scale"].dtype)]


def _shift_scale(data: np.ndarray, p: _Parameters) -> np.ndarray:
    """``scale * (data - offset)``, exact in float64, then rounded once."""
    scale = p["scale"]
    offset = _spread(p["offset"].astype(np.float64), data.shape) if "offset" in p else 0.0
    return ((data.astype(np.float64) - offset) * _spread(scale, data.shape)).astype(scale.dtype)


def _sparse_shift_scale(p: _Parameters) -> list[np.ndarray]:
    mask = p["data_mask"]
    return [mask, _shift_scale(_scatter(p["nonzero_data"], mask), p)[mask.astype(bool)]]


def _lut_to_sparse(p: _Parameters) -> list[np.ndarray]:
    mask, lut = p["indices_mask"], p["lut"]
    axis = int(p["vector_axis"]) if "vector_axis" in p else 0
    dense = _lookup(_scatter(p["indices_nonzero_data"], mask), lut, axis)
    mask = np.repeat(mask, lut.shape[-1], axis=axis)
    return [mask, dense[mask.astype(bool)]]


def _cast(p: _Parameters) -> list[np.ndarray]:
    return [p["source_val"].astype({"fp16": np.float16, "fp32": np.float32}[str(p["output_dtype"][()])])]


DECODERS: dict[str, Callable[[_Parameters], list[np.ndarray]]] = {
    "const": _const,
    "constexpr_cast": _cast,
    "constexpr_lut_to_dense": _lut_to_dense,
    "constexpr_lut_to_sparse": _lut_to_sparse,
    "constexpr_sparse_to_dense": _sparse_to_dense,
    "constexpr_affine_dequantize": _affine,
    "constexpr_blockwise_shift_scale": lambda p: [_shift_scale(p["data"], p)],
    "constexpr_sparse_blockwise_shift_scale": _sparse_shift_scale,
}
