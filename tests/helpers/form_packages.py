"""Every form that is written, as a row of a table: what the package holds before, and what is asked for.

The packages are made by coremltools alone: dense ones by its builder, compressed ones by its own compression.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import Var

from mil_palettize import OpPalettizerConfig, OptimizationConfig, Report, palettize_package

_PACKAGES = tempfile.TemporaryDirectory(prefix="form_packages_")
DTYPES = {"fp16": np.float16, "fp32": np.float32}
ALL = {"weight_threshold": 100}
# Output channels lie along axis 0, 1, 0 and 1.
SHAPES = {"conv": (24, 8, 3, 3), "up": (24, 16, 2, 2), "linear": (40, 64), "product": (40, 32)}
SHORT = {"product": (40, 32)}  # of a network that is quick to try
GROUPS = {"granularity": "per_grouped_channel", "group_size": 4}


def _pruned(sparsity: float) -> Callable[[ct.models.MLModel], ct.models.MLModel]:
    config = cto.OpMagnitudePrunerConfig(target_sparsity=sparsity, **ALL)
    return lambda model: cto.prune_weights(model, cto.OptimizationConfig(config))


def _quantized(**options: object) -> Callable[[ct.models.MLModel], ct.models.MLModel]:
    config = cto.OpLinearQuantizerConfig(**ALL, **options)
    return lambda model: cto.linear_quantize_weights(model, cto.OptimizationConfig(config))


# What coremltools makes of the dense network.
SOURCES: dict[str, Callable[[ct.models.MLModel], ct.models.MLModel]] = {
    "dense": lambda model: model,
    "sparse": _pruned(0.6),
    "dense mask": _pruned(0.0),
    "few left": _pruned(0.9),
    "nothing left": _pruned(1.0),
    "int8": _quantized(mode="linear_symmetric"),
    "int8 offset": _quantized(mode="linear"),
    "uint8 offset": _quantized(mode="linear", dtype="uint8"),
    "int8 tensor": _quantized(mode="linear_symmetric", granularity="per_tensor"),
    "int8 blocks": _quantized(mode="linear_symmetric", granularity="per_block", block_size=4),
    "uint8 blocks": _quantized(mode="linear", dtype="uint8", granularity="per_block", block_size=4),
    "int4": _quantized(mode="linear_symmetric", dtype="int4"),
    "int4 blocks": _quantized(mode="linear_symmetric", dtype="int4", granularity="per_block", block_size=4),
}


def values(name: str, dtype: str, levels: int = 0) -> np.ndarray:
    """A weight of the network. ``levels``: how many distinct values it has, 0 for no such number. Channels differ in
    size, so that scales are worth something."""
    draw = np.random.default_rng(sum(map(ord, name)))
    array = draw.standard_normal(SHAPES[name]) * 0.1
    if levels:
        lattice = np.linspace(-0.25, 0.25, levels).astype(np.float16)
        return draw.permutation(np.resize(lattice, array.size)).reshape(array.shape).astype(DTYPES[dtype])
    axis = 0 if name in ("conv", "linear") else 1
    size = np.linspace(0.3, 2, array.shape[axis]).reshape([-1 if i == axis else 1 for i in range(array.ndim)])
    return (array * size).astype(DTYPES[dtype])


def network(dtype: str, target: ct.target, levels: int, shapes: dict[str, tuple[int, ...]]) -> ct.models.MLModel:
    """Each of ``shapes`` read by its op."""

    def const(name: str) -> Var:
        return mb.const(val=values(name, dtype, levels), name=f"{name}_weight")

    def body(image: Var) -> Var:
        x = mb.cast(x=image, dtype=dtype, name="image_cast")
        if "conv" not in shapes:
            return mb.cast(x=mb.matmul(x=x, y=const("product"), name="product"), dtype="fp32", name="y")
        x = mb.conv(x=x, weight=const("conv"), pad_type="same", name="conv")
        x = mb.conv_transpose(x=x, weight=const("up"), strides=[2, 2], name="up")
        x = mb.reduce_mean(x=x, axes=[2], name="pool")
        x = mb.reshape(x=x, shape=[1, -1], name="row")
        x = mb.linear(x=mb.slice_by_size(x=x, begin=[0, 0], size=[1, 64]), weight=const("linear"), name="linear")
        return mb.cast(x=mb.matmul(x=x, y=const("product"), name="product"), dtype="fp32", name="y")

    shape = (1, 8, 4, 4) if "conv" in shapes else (3, 40)
    program = mb.program(input_specs=[mb.TensorSpec(shape)], opset_version=target)(body)
    return ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=target,
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
    )


@cache
def source(
    kind: str = "dense", target: str = "iOS18", dtype: str = "fp16", levels: int = 0, short: bool = False
) -> Path:
    """The package before: made once, for every test to read."""
    dense = network(dtype, ct.target[target], levels, SHORT if short else SHAPES)
    folder = Path(_PACKAGES.name, str(len(list(Path(_PACKAGES.name).iterdir()))))
    folder.mkdir()
    SOURCES[kind](dense).save(str(folder / "source.mlpackage"))
    return folder / "source.mlpackage"


@dataclass(frozen=True)
class Form:
    """``kind``, ``target``, ``dtype`` and ``levels``: of :func:`source`; ``options``: of ``OpPalettizerConfig``."""

    options: dict[str, object] = field(default_factory=dict)
    kind: str = "dense"
    target: str = "iOS18"
    dtype: str = "fp16"
    levels: int = 0

    @property
    def joint(self) -> bool:
        return self.kind != "dense"

    @property
    def config(self) -> OptimizationConfig:
        return OptimizationConfig(OpPalettizerConfig(**(ALL | self.options)))

    def source(self, short: bool = False) -> Path:
        return source(self.kind, self.target, self.dtype, self.levels, short)

    def palettize(self, destination: Path | None, *, short: bool = False, **keywords: object) -> Report:
        """``destination`` written by the library."""
        return palettize_package(
            self.source(short), destination, self.config, joint_compression=self.joint, select="all", **keywords
        )


SCALED = {"nbits": 4, "enable_per_channel_scale": True}
WRITTEN: dict[str, Form] = {
    "packed": Form({"nbits": 4}, target="iOS16"),
    "packed fp32": Form({"nbits": 6}, target="iOS17", dtype="fp32"),
    "packed unique": Form({"mode": "unique"}, target="iOS16", levels=12),
    "typed": Form({"nbits": 3}),
    "typed fp32": Form({"nbits": 4, "mode": "uniform"}, dtype="fp32"),
    "grouped": Form({"nbits": 2} | GROUPS),
    "grouped along axis 1": Form({"nbits": 3, "channel_axis": 1} | GROUPS),
    "vectors": Form({"nbits": 4, "cluster_dim": 2}),
    "vectors in groups": Form({"nbits": 2, "cluster_dim": 4} | GROUPS),
    "scaled": Form(SCALED),
    "scaled fp32": Form(SCALED, dtype="fp32"),
    "scaled groups": Form(SCALED | GROUPS),
    "folded": Form(SCALED | {"scale": "fold"}),
    "int8 table": Form({"nbits": 4, "lut_dtype": "int8"}),
    "uint8 tables": Form({"nbits": 3, "lut_dtype": "uint8"} | GROUPS),
    "uint8 table fp32": Form({"nbits": 6, "lut_dtype": "uint8"}, dtype="fp32"),
    "int8 table, scaled": Form(SCALED | {"lut_dtype": "int8"}),
    "int8 table of vectors": Form({"nbits": 4, "cluster_dim": 2, "lut_dtype": "int8"}),
    "int8 table of vectors iOS26": Form({"nbits": 4, "cluster_dim": 2, "lut_dtype": "int8"}, target="iOS26"),
    "vectors, scaled": Form(SCALED | {"cluster_dim": 2}),
    "vectors, scaled fp32 iOS26": Form(SCALED | {"cluster_dim": 4}, target="iOS26", dtype="fp32"),
    "vectors in groups, scaled, int8": Form(SCALED | GROUPS | {"nbits": 3, "cluster_dim": 2, "lut_dtype": "int8"}),
    "int8 table of vectors, scaled, iOS26": Form(SCALED | {"cluster_dim": 2, "lut_dtype": "int8"}, target="iOS26"),
    "sparse vectors": Form({"nbits": 4, "cluster_dim": 2}, "sparse"),
    "sparse vectors in groups iOS26": Form({"nbits": 2, "cluster_dim": 2} | GROUPS, "sparse", "iOS26"),
    "sparse uint8 table of vectors": Form({"nbits": 3, "cluster_dim": 2, "lut_dtype": "uint8"}, "few left", "iOS26"),
    "sparse": Form({"nbits": 3}, "sparse"),
    "sparse groups": Form({"nbits": 2} | GROUPS, "sparse"),
    "sparse int8 table": Form({"nbits": 4, "lut_dtype": "int8"}, "sparse"),
    "sparse uint8 tables": Form({"nbits": 2, "lut_dtype": "uint8"} | GROUPS, "sparse"),
    "tables scaled": Form({"nbits": 2}, "int8 tensor"),
    "tables scaled by channel": Form({"nbits": 2}, "int8 offset"),
    "tables scaled by block": Form({"nbits": 1}, "int8 blocks"),
    "unsigned tables": Form({"nbits": 2} | GROUPS, "uint8 offset", dtype="fp32"),
    "data scaled": Form({"nbits": 4}, "int8", "iOS26"),
    "data scaled with offset": Form({"nbits": 3} | GROUPS, "uint8 offset", "iOS26"),
    "data scaled by block": Form({"nbits": 3}, "int4 blocks", "iOS26"),
}
