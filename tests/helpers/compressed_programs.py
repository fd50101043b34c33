"""Programs that hold one compressed weight in each form, built with coremltools' MIL builder, for tests."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import coremltools as ct
import numpy as np
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import Operation, Program, Var, types

SHAPE = (12, 8)
_PACKAGES = tempfile.TemporaryDirectory(prefix="compressed_programs_")
Build = Callable[[np.random.Generator], Var]


def integers(draw: np.random.Generator, type_name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The whole range of a type (``uint3``), in the numpy dtype coremltools marks it with."""
    builtin = types.string_to_builtin(type_name)
    low, high = (-(2 ** (builtin.get_bitwidth() - 1)), 2 ** (builtin.get_bitwidth() - 1))
    if builtin.is_unsigned():
        low, high = 0, 2 ** builtin.get_bitwidth()
    return draw.integers(low, high, shape).astype(types.nptype_from_builtin(builtin))


def floats(draw: np.random.Generator, shape: tuple[int, ...], dtype: type = np.float16) -> np.ndarray:
    return (1 + draw.standard_normal(shape)).astype(dtype)


def _lut(nbits: int, groups=(1, 1), vector=1, axis=None, dtype=np.float16) -> Build:
    def build(draw: np.random.Generator) -> Var:
        indices = [n // vector if axis is not None and i == axis % 2 else n for i, n in enumerate(SHAPE)]
        table = floats(draw, (*groups, 2**nbits, vector), dtype)
        where = {} if axis is None else {"vector_axis": np.int32(axis)}
        return mb.constexpr_lut_to_dense(
            indices=integers(draw, f"uint{nbits}", tuple(indices)), lut=table, name="w", **where
        )

    return build


def _blocks(data: str, scale_shape=(4, 2), offset: object = None, dtype=np.float16) -> Build:
    def build(draw: np.random.Generator) -> Var:
        values = floats(draw, SHAPE, np.float16) if data == "fp16" else integers(draw, data, SHAPE)
        shift = {}
        if isinstance(offset, str):
            shift = {"offset": integers(draw, offset, scale_shape)}
        elif offset is not None:
            shift = {"offset": floats(draw, scale_shape, offset)}
        scale = floats(draw, scale_shape, dtype)
        return mb.constexpr_blockwise_shift_scale(data=values, scale=scale, name="w", **shift)

    return build


def _scaled_palette(draw: np.random.Generator) -> Var:
    table = draw.integers(-128, 128, (3, 1, 16, 1)).astype(np.int8)
    inner = mb.constexpr_lut_to_dense(indices=integers(draw, "uint4", SHAPE), lut=table, name="inner")
    return mb.constexpr_blockwise_shift_scale(data=inner, scale=floats(draw, (12, 1)), name="w")


def _quantized_table(data: str, offset: str | None, vector: int = 1) -> Build:
    def build(draw: np.random.Generator) -> Var:
        shape, scale_shape = (2, 1, 4, vector), (2, 1, 1, 1)
        shift = {} if offset is None else {"offset": integers(draw, offset, scale_shape)}
        table = mb.constexpr_blockwise_shift_scale(
            data=integers(draw, data, shape), scale=floats(draw, scale_shape), name="inner", **shift
        )
        where = {} if vector == 1 else {"vector_axis": np.int32(1)}
        indices = integers(draw, "uint2", (SHAPE[0], SHAPE[1] // vector))
        return mb.constexpr_lut_to_dense(indices=indices, lut=table, name="w", **where)

    return build


def _quantized_scale(draw: np.random.Generator) -> Var:
    scale = mb.constexpr_blockwise_shift_scale(
        data=integers(draw, "uint8", (4, 2)), scale=floats(draw, (1, 1)), name="inner"
    )
    return mb.constexpr_blockwise_shift_scale(data=integers(draw, "int4", SHAPE), scale=scale, name="w")


def _mask(draw: np.random.Generator, shape: tuple[int, ...] = SHAPE) -> tuple[np.ndarray, int]:
    mask = integers(draw, "uint1", shape)
    return mask, int(np.count_nonzero(mask))


def _sparse(draw: np.random.Generator) -> Var:
    mask, count = _mask(draw)
    return mb.constexpr_sparse_to_dense(nonzero_data=floats(draw, (count,)), mask=mask, name="w")


def _scaled_sparse(draw: np.random.Generator) -> Var:
    mask, count = _mask(draw)
    inner = mb.constexpr_sparse_to_dense(nonzero_data=integers(draw, "int4", (count,)), mask=mask, name="inner")
    offset = integers(draw, "int4", (12, 1))
    return mb.constexpr_blockwise_shift_scale(data=inner, scale=floats(draw, (12, 1)), offset=offset, name="w")


def _sparse_palette(groups=(1, 1), vector=1) -> Build:
    def build(draw: np.random.Generator) -> Var:
        mask, count = _mask(draw, (SHAPE[0] // vector, SHAPE[1]))
        where = {} if vector == 1 else {"vector_axis": np.int32(0)}
        out_mask, values = mb.constexpr_lut_to_sparse(
            indices_mask=mask,
            indices_nonzero_data=integers(draw, "uint3", (count,)),
            lut=floats(draw, (*groups, 8, vector)),
            name="inner",
            **where,
        )
        return mb.constexpr_sparse_to_dense(nonzero_data=values, mask=out_mask, name="w")

    return build


def _sparse_blocks(data: str, offset: bool) -> Build:
    def build(draw: np.random.Generator) -> Var:
        mask, count = _mask(draw)
        shift = {"offset": integers(draw, data, (4, 1))} if offset else {}
        out_mask, values = mb.constexpr_sparse_blockwise_shift_scale(
            data_mask=mask,
            nonzero_data=integers(draw, data, (count,)),
            scale=floats(draw, (4, 1)),
            name="inner",
            **shift,
        )
        return mb.constexpr_sparse_to_dense(nonzero_data=values, mask=out_mask, name="w")

    return build


def _sparse_palette_of_nonzeros(draw: np.random.Generator) -> Var:
    mask, count = _mask(draw)
    inner = mb.constexpr_lut_to_dense(
        indices=integers(draw, "uint2", (count,)), lut=floats(draw, (1, 4, 1)), name="inner"
    )
    return mb.constexpr_sparse_to_dense(nonzero_data=inner, mask=mask, name="w")


def _cast(draw: np.random.Generator) -> Var:
    return mb.constexpr_cast(source_val=floats(draw, SHAPE), output_dtype="fp32", name="w")


TYPED: dict[str, Build] = {
    **{f"palette of {n} bits": _lut(n) for n in (1, 2, 3, 4, 6, 8)},
    "palette of fp32": _lut(4, dtype=np.float32),
    "palettes in groups": _lut(3, (4, 1)),
    "palettes along two axes": _lut(2, (3, 4)),
    "vectors along axis 0": _lut(4, (2, 1), vector=2, axis=0),
    "vectors along the last axis": _lut(2, (1, 2), vector=4, axis=-1),
    "vectors in groups along both axes": _lut(2, (2, 2), vector=3, axis=0),
    "int4 blocks": _blocks("int4", offset="int4"),
    "uint4 blocks": _blocks("uint4", offset="uint4"),
    "int8 per channel": _blocks("int8", (12, 1)),
    "uint8 per tensor, fp32": _blocks("uint8", (1, 1), offset="uint8", dtype=np.float32),
    "int8, fp16 offset": _blocks("int8", offset=np.float16),
    "int4, fp32 scale and offset": _blocks("int4", offset=np.float32, dtype=np.float32),
    "fp16 blocks": _blocks("fp16"),
    "scaled int8 palettes": _scaled_palette,
    "int8 table": _quantized_table("int8", None),
    "uint4 table with offset": _quantized_table("uint4", "uint4"),
    "int8 table of vectors": _quantized_table("int8", None, vector=2),
    "quantized scale": _quantized_scale,
    "sparse": _sparse,
    "sparse, then scaled": _scaled_sparse,
    "sparse palette": _sparse_palette(),
    "sparse palettes in groups": _sparse_palette((4, 2)),
    "sparse vectors": _sparse_palette((2, 1), vector=2),
    "sparse int8": _sparse_blocks("int8", offset=False),
    "sparse int4 with offset": _sparse_blocks("int4", offset=True),
    "sparse uint8 with offset": _sparse_blocks("uint8", offset=True),
    "sparse palette of nonzeros": _sparse_palette_of_nonzeros,
    "cast": _cast,
}


def _affine(data: type, zero_point: object, scale: object, axis: int) -> Build:
    def build(draw: np.random.Generator) -> Var:
        info = np.iinfo(data)
        values = draw.integers(info.min, info.max + 1, SHAPE).astype(data)
        return mb.constexpr_affine_dequantize(
            quantized_data=values, zero_point=zero_point(draw), scale=scale(draw), axis=axis, name="w"
        )

    return build


def _packed_lut(nbits: int, dtype: type = np.float16) -> Build:
    def build(draw: np.random.Generator) -> Var:
        count = SHAPE[0] * SHAPE[1] - 1  # bits that do not fill the last byte
        indices = draw.integers(0, 256, -(-count * nbits // 8)).astype(np.uint8)
        spare = indices.size * 8 - count * nbits
        indices[-1] &= 255 >> spare
        table = floats(draw, (2**nbits,), dtype)
        return mb.constexpr_lut_to_dense(indices=indices, lut=table, shape=np.uint32([5, 19]), name="w")

    return build


def _packed_sparse(draw: np.random.Generator) -> Var:
    mask = draw.integers(0, 2, 95)
    return mb.constexpr_sparse_to_dense(
        nonzero_data=floats(draw, (int(mask.sum()),)),
        mask=np.packbits(mask, bitorder="little"),
        shape=np.uint32([19, 5]),
        name="w",
    )


def _int8(draw: np.random.Generator) -> np.ndarray:
    return integers(draw, "int8", (12,))


PACKED: dict[str, Build] = {
    **{f"palette of {n} bits": _packed_lut(n) for n in (1, 2, 4, 6, 8)},
    "palette of fp32": _packed_lut(4, np.float32),
    "int8 per tensor": _affine(np.int8, lambda d: np.int8(3), lambda d: np.float16(0.37), 0),
    "int8 per channel": _affine(np.int8, _int8, lambda d: floats(d, (12,)), 0),
    "int8 per channel, fp32": _affine(np.int8, _int8, lambda d: floats(d, (12,), np.float32), -2),
    "uint8, one zero point": _affine(np.uint8, lambda d: np.uint8(9), lambda d: floats(d, (8,)), 1),
    "uint8, fp32 zero points": _affine(np.uint8, lambda d: floats(d, (8,), np.float32), lambda d: floats(d, (8,)), -1),
    "sparse": _packed_sparse,
    "cast": _cast,
}


def program(build: Build, target: ct.target, seed: int = 0) -> Program:
    """The weight ``w`` read by one op."""

    @mb.program(input_specs=[mb.TensorSpec((1,))], opset_version=target)
    def main(x: Var) -> tuple[Var, Var]:
        w = build(np.random.default_rng(seed))
        return mb.relu(x=x), mb.identity(x=w, name="read")

    return main


def saved(main: Program, target: ct.target, folder: Path) -> Path:
    """Convert without passes, so that what was built is what is stored."""
    model = ct.convert(
        main,
        convert_to="mlprogram",
        minimum_deployment_target=target,
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
    )
    path = folder / "built.mlpackage"
    model.save(str(path))
    return path


@cache
def built(target: str, form: str) -> tuple[Program, Path]:
    """A form's program, and its package for every test to read: built once."""
    main = program((TYPED if target == "iOS18" else PACKED)[form], ct.target[target])
    folder = Path(_PACKAGES.name, f"{target} {len(list(Path(_PACKAGES.name).iterdir()))}")
    folder.mkdir()
    return main, saved(main, ct.target[target], folder)


def weight_op(main: Program) -> Operation:
    return next(op for op in main.functions["main"].operations if op.outputs and op.outputs[0].name == "w")
