"""The ops of ML Programs, written with torch: a file per family, as in coremltools ``mil/ops/defs``."""

from __future__ import annotations

from importlib import import_module

from mil_palettize.torch.evaluator.ops.registry import OPS

FAMILIES = (
    "activation", "classify", "control_flow", "conv", "elementwise_binary", "elementwise_unary", "image_resizing",
    "linear", "lists", "normalization", "pool", "quantization", "random", "recurrent", "reduction", "scatter_gather",
    "slicing", "states", "suppression", "tensor_operation", "tensor_transformation", "transformers",
)  # fmt: skip

for family in FAMILIES:
    import_module(f"{__name__}.{family}")

__all__ = ["FAMILIES", "OPS"]
