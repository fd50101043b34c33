"""Attention."""

from __future__ import annotations

from torch.nn import functional as F

from mil_palettize.torch.evaluator.ops.registry import Tensor, op


@op("scaled_dot_product_attention")
def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """A mask has the last axes of the scores, [..., L, S]; torch wants at least these two."""
    if attn_mask is not None and attn_mask.ndim == 1:
        attn_mask = attn_mask[None]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask)
