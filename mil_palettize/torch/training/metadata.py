"""How a module knows that a weight is a palette: coremltools' own buffers, of which ``ct.convert`` makes tables; of a
package, what ``save_package`` writes."""

from __future__ import annotations

from coremltools.optimize.torch._utils.metadata_utils import (
    CompressionMetadata,
    CompressionType,
    register_metadata_version,
)
from torch import nn

from mil_palettize.torch.training.mil_module import MILModule
from mil_palettize.torch.training.trained_palette import TrainedPalette


def register(model: nn.Module, owner: nn.Module, parameter: str, palette: TrainedPalette) -> None:
    """Of a parameter whose values are those of ``palette``; what is known of it from before goes."""
    if isinstance(owner, MILModule):
        owner.palettes[parameter] = palette
        return
    layout, stored = palette.settings.layout(palette.shape), palette.stored
    metadata = CompressionMetadata(parameter)
    kinds = ["palettization"] if palette.mask is None else ["pruning", "palettization"]
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


def is_pruned(owner: nn.Module, parameter: str) -> bool:
    """Whether coremltools' pruners say so of a parameter, whose zeros then have to stay zeros."""
    kinds = dict(owner.named_buffers(recurse=False)).get(f"_COREML_/{parameter}/compression_type")
    return kinds is not None and CompressionType.pruning.value in kinds.tolist()
