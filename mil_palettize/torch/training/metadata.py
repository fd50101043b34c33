"""What ``ct.convert`` reads to make look-up tables of a torch model's weights: coremltools' own buffers."""

from __future__ import annotations

from coremltools.optimize.torch._utils.metadata_utils import CompressionMetadata, register_metadata_version
from torch import nn

from mil_palettize.torch.training.trained_palette import TrainedPalette


def register(model: nn.Module, owner: nn.Module, parameter: str, palette: TrainedPalette) -> None:
    """Of a parameter whose values are those of ``palette``; what is known of it from before goes."""
    layout, stored = palette.settings.layout(palette.shape), palette.stored
    metadata = CompressionMetadata(parameter)
    kinds = ["palettization"]
    metadata.lut = layout.lut(stored.entries)
    if palette.settings.cluster_dim > 1:
        metadata.vector_axis = palette.settings.axis
    if palette.scale is not None:
        metadata.palettization_scale = palette.scale
    if stored.scale is not None:
        kinds.append("quantization")
        metadata.quantization_n_bits = 8
        metadata.quantization_scale = layout.lut(stored.scale)
        if stored.offset is not None:
            metadata.zero_point = layout.lut(stored.offset)
    metadata.compression_type = kinds
    metadata.register(owner, override_compression_type=True)
    register_metadata_version(model)
