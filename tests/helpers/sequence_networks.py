"""Small networks of sequences: attention, recurrent layers, sound."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Attention


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.heads = heads

    def forward(self, x: Tensor, other: Tensor, hidden: Tensor | None = None) -> Tensor:
        query, key, value = (self._split(y) for y in (self.query(x), self.key(other), self.value(other)))
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        if hidden is not None:
            scores = scores.masked_fill(hidden, float("-inf"))
        return self.out((scores.softmax(-1) @ value).transpose(1, 2).reshape(x.shape))

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)


class Layer(nn.Module):
    """Of an encoder, or, with ``crossed``, of a decoder."""

    def __init__(self, width: int, heads: int, crossed: bool = False) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.cross = Attention(width, heads) if crossed else None
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3 if crossed else 2))
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, memory: Tensor | None = None, hidden: Tensor | None = None) -> Tensor:
        y = self.norms[0](x)
        x = x + self.attention(y, y, hidden)
        if self.cross is not None and memory is not None:
            x = x + self.cross(self.norms[1](x), memory)
        return x + self.mlp(self.norms[-1](x))


class Transformer(nn.Module):
    """Token ids to scores of next tokens; a table for both, and learned positions."""

    def __init__(self, width: int = 16, heads: int = 2, count: int = 11, length: int = 12) -> None:
        super().__init__()
        self.table, self.positions = nn.Embedding(count, width), nn.Embedding(length, width)
        self.encoder = nn.ModuleList(Layer(width, heads) for _ in range(2))
        self.decoder = nn.ModuleList(Layer(width, heads, crossed=True) for _ in range(2))
        self.norm = nn.LayerNorm(width)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory = self._embedded(source)
        for layer in self.encoder:
            memory = layer(memory)
        x = self._embedded(target)
        size = target.shape[1]
        hidden = torch.ones(size, size, dtype=torch.bool).triu(1)
        for layer in self.decoder:
            x = layer(x, memory, hidden)
        return self.norm(x) @ self.table.weight.t()

    def _embedded(self, ids: Tensor) -> Tensor:
        return self.table(ids) + self.positions(torch.arange(ids.shape[1]))


class TorchAttention(nn.Module):
    """Torch's own: MultiheadAttention, and the fused product, causal, with a mask of floats and one of bools."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        y, weights = self.attention(x, x, x)
        q, k, v = (part.reshape(2, 6, 4, 4).transpose(1, 2) for part in (y, x, x * 0.5))
        causal = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        biased = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        masked = F.scaled_dot_product_attention(q, k, v, attn_mask=bias < 0.5)
        return y, weights, causal, biased, masked


class CachedDecoder(nn.Module):
    """A decoder that keeps keys and values of all layers in states. ``mask``: [1, 1, new, all so far], added."""

    def __init__(self, length: int = 8, layers: int = 2, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.table, self.heads = nn.Embedding(11, width), heads
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(layers))
        self.mlp = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        for name in ("keys", "values"):
            self.register_buffer(name, torch.zeros(layers, 1, heads, length, width // heads))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.table(ids)
        end = mask.shape[-1]
        begin = end - ids.shape[1]
        for layer, (project, mlp) in enumerate(zip(self.qkv, self.mlp, strict=True)):
            q, k, v = (self._split(part) for part in project(x).chunk(3, -1))
            self.keys[layer : layer + 1, :, :, begin:end] = k.unsqueeze(0)
            self.values[layer : layer + 1, :, :, begin:end] = v.unsqueeze(0)
            y = F.scaled_dot_product_attention(
                q, self.keys[layer, :, :, :end], self.values[layer, :, :, :end], attn_mask=mask
            )
            x = x + F.silu(mlp(y.transpose(1, 2).reshape(x.shape)))
        return x @ self.table.weight.t()

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(1, x.shape[1], self.heads, -1).transpose(1, 2)


# Sequences


class Recurrent(nn.Module):
    """``kind``: of torch's recurrent layers."""

    def __init__(self, kind: Callable[..., nn.Module], **options: Any) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.layers = kind(6, 5, batch_first=True, **options)
        self.linear = nn.Linear(10 if options.get("bidirectional") else 5, 4)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        sequence, last = self.layers(self.table(ids))
        return F.log_softmax(self.linear(sequence), -1), last[0] if isinstance(last, tuple) else last


class Audio(nn.Module):
    """A spectrogram by convolution with waves, of padded sound; bands, decibels, dilated layers, running means."""

    def __init__(self) -> None:
        super().__init__()
        time = torch.arange(16.0)
        angles = 2 * math.pi * torch.arange(9.0)[:, None] * time / 16
        basis = torch.cat([torch.cos(angles), -torch.sin(angles)]) * torch.hann_window(16)
        self.register_buffer("basis", basis[:, None])
        self.register_buffer("bands", torch.rand(6, 9))
        self.layers = nn.ModuleList(nn.Conv1d(6, 12, 3, dilation=2**i) for i in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        parts = F.conv1d(F.pad(x, (8, 8), mode="reflect"), self.basis, stride=4)
        real, imaginary = parts.chunk(2, 1)
        power = real.pow(2) + imaginary.pow(2)
        level = 10 * torch.log10(torch.clamp(self.bands @ power, min=1e-3))
        y = (level - level.mean(-1, keepdim=True)) / (level.std(-1, keepdim=True) + 1e-3)
        for layer in self.layers:
            gate, content = layer(F.pad(y, (2 * layer.dilation[0], 0))).chunk(2, 1)
            y = y + torch.sigmoid(gate) * torch.tanh(content)
        count = torch.arange(1, y.shape[-1] + 1, dtype=torch.float32)
        return torch.log(power + 1e-2), y.cumsum(-1) / count
