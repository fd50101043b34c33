"""Fixtures whose weights are compressed already, by coremltools and in forms it can read."""

from __future__ import annotations

from pathlib import Path

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import Var, types
from fixture_writing import FP16, Draw, constant, convert, entry, program, result, save, tensor


def three_linears(target: ct.target, seed: str) -> ct.models.MLModel:
    """``a_weight`` and ``b_weight`` to be compressed, ``kept_weight`` not."""

    def body(x: Var) -> Var:
        draw = Draw(seed)
        y = mb.linear(x=entry(x, FP16), weight=constant(draw.normal(64, 48), "a_weight"), name="a")
        y = mb.linear(x=y, weight=constant(draw.normal(64, 64), "b_weight"), name="b")
        return result(mb.linear(x=y, weight=constant(draw.normal(48, 64), "kept_weight"), name="kept"), "y")

    return convert(program(target, body, tensor(1, 48)), target)


def _on(**configs: object) -> cto.OptimizationConfig:
    return cto.OptimizationConfig(op_name_configs={f"{name}_weight": c for name, c in configs.items()})


def palettized(package: Path) -> None:
    """4-bit palettes, one per tensor. Uniform ones: k-means of coremltools differs between machines."""
    config = cto.OpPalettizerConfig(mode="uniform", nbits=4)
    model = three_linears(ct.target.iOS16, "palettized")
    save(cto.palettize_weights(model, _on(a=config, b=config, kept=None)), package)


def palettized_grouped(package: Path) -> None:
    """3-bit palettes, one per 16 output channels, stored in typed form."""
    config = cto.OpPalettizerConfig(mode="uniform", nbits=3, granularity="per_grouped_channel", group_size=16)
    model = three_linears(ct.target.iOS18, "palettized_grouped")
    save(cto.palettize_weights(model, _on(a=config, b=config, kept=None)), package)


def quantized_sparse(package: Path) -> None:
    """int8 affine (``a_weight``) and half of the values pruned (``b_weight``), iOS16 forms."""
    model = three_linears(ct.target.iOS16, "quantized_sparse")
    int8 = cto.OpLinearQuantizerConfig(mode="linear", dtype="int8")
    model = cto.linear_quantize_weights(model, _on(a=int8, b=None, kept=None))
    half = cto.OpMagnitudePrunerConfig(target_sparsity=0.5)
    save(cto.prune_weights(model, _on(a=None, b=half, kept=None)), package)


def _palette(draw: Draw, shape: tuple[int, ...], nbits: int) -> np.ndarray:
    """Random indices of ``nbits`` bits, in the dtype coremltools marks them with."""
    indices = draw.generator.integers(0, 2**nbits, shape)
    return indices.astype(types.nptype_from_builtin(types.string_to_builtin(f"uint{nbits}")))


def _joint_weights(draw: Draw) -> dict[str, Var]:
    """One weight of shape (64, 48) in each nested iOS18 form."""
    table = draw.normal(1, 1, 16, 1)
    four_bits = _palette(draw, (64, 48), 4)
    scale_of_lut = mb.constexpr_lut_to_dense(indices=four_bits, lut=table, name="scaled_lut_palette")
    int8 = draw.generator.integers(-127, 128, (1, 1, 16, 1)).astype(np.int8)
    lut_scale = draw.near_one(1, 1, 1, 1)
    int8_table = mb.constexpr_blockwise_shift_scale(data=int8, scale=lut_scale, name="int8_lut_table")
    mask = _palette(draw, (64, 48), 1)
    nonzero = _palette(draw, (int(np.count_nonzero(mask)),), 2)
    sparse_mask, sparse_data = mb.constexpr_lut_to_sparse(
        indices_mask=mask,
        indices_nonzero_data=nonzero,
        lut=draw.normal(1, 1, 4, 1),
        name="sparse_lut_palette",
    )
    int4 = draw.generator.integers(-8, 8, (64, 48)).astype(types.nptype_from_builtin(types.int4))
    return {
        "scaled_lut": mb.constexpr_blockwise_shift_scale(
            data=scale_of_lut, scale=draw.near_one(64, 1), name="scaled_lut_weight"
        ),
        "int8_lut": mb.constexpr_lut_to_dense(indices=four_bits, lut=int8_table, name="int8_lut_weight"),
        "sparse_lut": mb.constexpr_sparse_to_dense(
            nonzero_data=sparse_data, mask=sparse_mask, name="sparse_lut_weight"
        ),
        "vector": mb.constexpr_lut_to_dense(
            indices=_palette(draw, (32, 48), 2),
            lut=draw.normal(4, 1, 4, 2),
            vector_axis=np.int32(0),
            name="vector_weight",
        ),
        "two_axes": mb.constexpr_lut_to_dense(
            indices=_palette(draw, (64, 48), 3), lut=draw.normal(4, 3, 8, 1), name="two_axes_weight"
        ),
        "blocks": mb.constexpr_blockwise_shift_scale(
            data=int4, scale=draw.near_one(64, 3), offset=np.zeros((64, 3), int4.dtype), name="blocks_weight"
        ),
    }


def joint(package: Path) -> None:
    """iOS18 forms: scaled, int8, sparse and vector palettes, palettes along two axes, int4 blocks."""
    target = ct.target.iOS18

    def body(x: Var) -> Var:
        x = entry(x, FP16)
        weights = _joint_weights(Draw("joint"))
        outputs = [mb.linear(x=x, weight=weight, name=name) for name, weight in weights.items()]
        return result(mb.concat(values=outputs, axis=1, name="all"), "y")

    save(convert(program(target, body, tensor(1, 48)), target), package)
