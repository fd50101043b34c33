"""Small networks of many kinds, with what they are run on: whole programs for the evaluator."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import coremltools as ct
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

IOS15, IOS16, IOS17, IOS18 = ct.target.iOS15, ct.target.iOS16, ct.target.iOS17, ct.target.iOS18


@dataclass(frozen=True)
class Network:
    """``inputs``: shapes of arrays from N(0, 1), or arrays."""

    make: Callable[[], nn.Module]
    inputs: Sequence[Any]
    target: Any

    def module(self) -> nn.Module:
        """The same weights every time, and statistics of batches that are not 0 and 1."""
        torch.manual_seed(0)
        module = self.make()
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm | nn.GroupNorm | nn.LayerNorm | nn.InstanceNorm2d):
                _shaken(part)
        return module.eval()

    def arrays(self) -> list[np.ndarray]:
        random = np.random.default_rng(0)
        return [
            item if isinstance(item, np.ndarray) else random.standard_normal(item).astype(np.float32)
            for item in self.inputs
        ]


def _shaken(norm: nn.Module) -> None:
    """Its parameters and statistics are not those that do nothing."""
    with torch.no_grad():
        for name, tensor in (*norm.named_parameters(), *norm.named_buffers()):
            if name in ("weight", "running_var"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.is_floating_point():
                tensor.normal_(0, 0.3)


def tokens(*shape: int, count: int = 11) -> np.ndarray:
    return np.random.default_rng(1).integers(0, count, shape).astype(np.int32)


# Images to classes


class ResNetBlock(nn.Module):
    """A shortcut without weights where the width grows: every other pixel, and channels of zeros around."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.extra = stride, (width - before) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1 or self.extra:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.extra, self.extra))
        return F.relu(x + y)


class ResNet(nn.Module):
    """For CIFAR-10 (He et al. 2015): ResNet-20 with three blocks a stage."""

    def __init__(self, blocks: int = 3, widths: Sequence[int] = (16, 32, 64), classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        before = [widths[0], *widths]
        for stage, width in enumerate(widths):
            rest = [ResNetBlock(width, width, 1) for _ in range(blocks - 1)]
            first = ResNetBlock(before[stage], width, 1 if stage == 0 else 2)
            setattr(self, f"layer{stage + 1}", nn.Sequential(first, *rest))
        self.linear = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(F.avg_pool2d(y, y.shape[3]).flatten(1))


class SqueezeExcite(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(width, width // 4, 1), nn.Conv2d(width // 4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))


class InvertedResidual(nn.Module):
    def __init__(self, before: int, width: int, stride: int, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        inner = before * 4
        self.body = nn.Sequential(
            *(nn.Conv2d(before, inner, 1, bias=False), nn.BatchNorm2d(inner), act()),
            *(nn.Conv2d(inner, inner, 5, stride, 2, groups=inner, bias=False), nn.BatchNorm2d(inner), act()),
            SqueezeExcite(inner),
            *(nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width)),
        )
        self.adds = stride == 1 and before == width

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.adds else self.body(x)


class MobileNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
        self.blocks = nn.Sequential(
            InvertedResidual(8, 8, 1, nn.ReLU6), InvertedResidual(8, 12, 2, nn.Hardswish),
            InvertedResidual(12, 12, 1, nn.Hardswish),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Linear(12, 16), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(16, 5))

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(self.head(self.blocks(self.stem(x)).mean((2, 3))), dim=-1)


class ConvNeXt(nn.Module):
    """Depthwise convolutions, normalization over channels at the front and at the end, a scale of each layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.depthwise = nn.Conv2d(8, 8, 7, padding=3, groups=8)
        self.norm = nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)
        self.scale = nn.Parameter(torch.full((8,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.down(F.gelu(self.up(y)))
        x = x + y.permute(0, 3, 1, 2)
        mean = x.mean(1, keepdim=True)
        return (x - mean) / torch.sqrt((x - mean).pow(2).mean(1, keepdim=True) + 1e-6)


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


class VisionTransformer(nn.Module):
    """Patches with a class token, then windows that are shifted, with biases by relative position."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 4, 4)
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, 12)), nn.Parameter(torch.randn(1, 17, 12))
        self.layer = Layer(12, 3)
        self.qkv = nn.Linear(12, 36)
        self.bias = nn.Parameter(torch.randn(9, 3))
        place = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij")).flatten(1)
        relative = place[:, :, None] - place[:, None, :] + 1
        self.register_buffer("index", relative[0] * 3 + relative[1])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.layer(torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions)
        grid = torch.roll(x[:, 1:].reshape(2, 4, 4, 12), shifts=(-1, -1), dims=(1, 2))
        windows = grid.reshape(2, 2, 2, 2, 2, 12).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 12)
        q, k, v = self.qkv(windows).reshape(-1, 4, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.bias[self.index.reshape(-1)].reshape(4, 4, 3).permute(2, 0, 1)
        windows = (torch.einsum("bhid,bhjd->bhij", q, k) * 0.5 + bias).softmax(-1) @ v
        return x[:, 0], torch.roll(windows.transpose(1, 2).reshape(2, 4, 4, 12), (1, 1), (1, 2))


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


# Images to images


class Residual(nn.Module):
    def __init__(self, before: int, width: int, time: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(2, before), nn.GroupNorm(4, width)])
        self.convs = nn.ModuleList([nn.Conv2d(before, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)])
        self.time = nn.Linear(time, width)
        self.skip = nn.Conv2d(before, width, 1) if before != width else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y = self.convs[0](F.silu(self.norms[0](x))) + self.time(F.silu(time))[:, :, None, None]
        return self.skip(x) + self.convs[1](F.silu(self.norms[1](y)))


class UNet(nn.Module):
    """Of a diffusion model: ``time`` by sines and cosines, attention at the bottom, two ways up."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 16))
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.down = nn.ModuleList([Residual(8, 8, 16), Residual(8, 12, 16)])
        self.pools = nn.ModuleList([nn.Conv2d(8, 8, 3, 2, 1), nn.AvgPool2d(2)])
        self.middle, self.norm, self.attention = Residual(12, 12, 16), nn.GroupNorm(3, 12), Attention(12, 2)
        self.raise_ = nn.ConvTranspose2d(12, 12, 4, 2, 1)
        self.up = nn.ModuleList([Residual(24, 8, 16), Residual(16, 8, 16)])
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        angles = time[:, None] * torch.exp(torch.arange(4.0) * (-math.log(100.0) / 4))
        t = self.time(torch.cat([angles.sin(), angles.cos()], -1))
        x = self.first(x)
        skips = []
        for block, pool in zip(self.down, self.pools, strict=True):
            x = block(x, t)
            skips.append(x)
            x = pool(x)
        x = self.middle(x, t)
        flat = self.norm(x).flatten(2).transpose(1, 2)
        x = x + self.attention(flat, flat).transpose(1, 2).reshape(x.shape)
        x = self.up[0](torch.cat([self.raise_(x), skips[1]], 1), t)
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        return self.last(self.up[1](torch.cat([x, skips[0]], 1), t))


class SuperResolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3, 8, 5, padding=2), nn.Conv2d(8, 12, 3, padding=1, dilation=1)])
        self.act = nn.PReLU(8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = F.pixel_shuffle(self.convs[1](self.act(self.convs[0](x))), 2)
        large = y + F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        small = F.interpolate(F.pixel_unshuffle(large, 2), size=(5, 3), mode="bilinear", align_corners=True)
        return large.clamp(0, 1), small


class StyleTransfer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [nn.Conv2d(3, 8, 5), nn.Conv2d(8, 16, 3, 2), nn.Conv2d(16, 8, 3), nn.Conv2d(8, 3, 5)]
        )
        self.norms = nn.ModuleList(nn.InstanceNorm2d(width, affine=True) for width in (8, 16, 8))

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        x, y = self._encoded(content), self._encoded(style)
        # Adaptive instance normalization: the content with the statistics of the style.
        mean, spread = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True).add(1e-5).sqrt()
        x = (x - mean) / spread * y.std((2, 3), keepdim=True) + y.mean((2, 3), keepdim=True)
        x = F.pad(F.interpolate(x, scale_factor=2.0), (1, 1, 1, 1), mode="reflect")
        x = F.leaky_relu(self.norms[2](self.convs[2](x)), 0.2)
        return torch.tanh(self.convs[3](F.pad(x, (2, 2, 2, 2), mode="replicate"))) * 127.5 + 127.5

    def _encoded(self, x: Tensor) -> Tensor:
        x = F.relu(self.norms[0](self.convs[0](F.pad(x, (2, 2, 2, 2), mode="reflect"))))
        return F.relu(self.norms[1](self.convs[1](F.pad(x, (1, 1, 1, 1), mode="reflect"))))


# Places in images


class Detector(nn.Module):
    """Two scales of boxes, decoded from anchors; the best ones by score."""

    def __init__(self, classes: int = 3, best: int = 6) -> None:
        super().__init__()
        self.classes, self.best = classes, best
        self.body = nn.ModuleList([nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, 2, 1)])
        self.heads = nn.ModuleList(nn.Conv2d(width, 2 * (4 + classes), 1) for width in (8, 12))
        for scale, (size, pixels) in enumerate(((8, 2.0), (4, 4.0))):
            y, x = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
            centers = torch.stack([x, y], -1).reshape(1, -1, 2) * pixels
            extents = torch.tensor([[2.0, 3.0], [4.0, 1.0]])[:, None] * pixels
            anchors = torch.cat([centers.expand(2, -1, -1), extents.expand(-1, size**2, -1)], -1)
            self.register_buffer(f"anchors{scale}", anchors.reshape(1, -1, 4))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        found = []
        for conv, head in zip(self.body, self.heads, strict=True):
            x = F.silu(conv(x))
            y = head(x)
            found.append(y.reshape(1, 2, 4 + self.classes, -1).permute(0, 1, 3, 2).reshape(1, -1, 4 + self.classes))
        offsets, scores = torch.cat(found, 1).split([4, self.classes], -1)
        anchors = torch.cat([self.anchors0, self.anchors1], 1)
        center = anchors[..., :2] + offsets[..., :2] * anchors[..., 2:]
        half = anchors[..., 2:] * offsets[..., 2:].clamp(-4, 4).exp() / 2
        boxes = torch.cat([center - half, center + half], -1).clamp(0, 16)
        best, classes = torch.sigmoid(scores).max(-1)
        top, index = torch.topk(best, self.best, dim=1)
        chosen = torch.gather(boxes, 1, index[..., None].expand(-1, -1, 4))
        return chosen, top, torch.gather(classes, 1, index)


class Keypoints(nn.Module):
    """The highest places of maps, and their centers of mass; samples of features there."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ELU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(8, 4, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = self.body(x)
        flat = maps.flatten(2)
        index = flat.argmax(-1)
        width = maps.shape[3]
        mass = flat.mul(4).softmax(-1).reshape(maps.shape)
        columns = (mass.sum(2) * torch.linspace(-1, 1, width)).sum(-1)
        rows = (mass.sum(3) * torch.linspace(-1, 1, maps.shape[2])).sum(-1)
        grid = torch.stack([columns, rows], -1)[:, :, None]
        sampled = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return index % width, torch.div(index, width, rounding_mode="floor"), flat.max(-1).values, grid, sampled


class VisionOps(nn.Module):
    """What networks of vision use here and there."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("order", torch.tensor([3, 0, 2]))
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        pooled = F.adaptive_avg_pool2d(x, (2, 4)) + F.adaptive_max_pool2d(x, (2, 4))
        patches = F.unfold(x, kernel_size=2, stride=2)
        rolled = torch.roll(x, 3, 2)
        mixed = torch.einsum("bchw,dc->bdhw", x, self.weight)
        chosen = torch.index_select(x, 1, self.order)
        picked = torch.where(x > 0, x, torch.exp(x.clamp(-2, 2)))
        spread = x.std((2, 3), unbiased=False) + x.var((2, 3))
        lengths = x.norm(dim=1) + x.norm(p=1, dim=1) + F.normalize(x, dim=1).sum(1)
        summed = torch.logsumexp(x, dim=(1,)) + x.amax(1) - x.amin(1)
        return pooled, patches, rolled, mixed, chosen, picked, spread, lengths, summed


NETWORKS: dict[str, Network] = {
    "resnet": Network(lambda: ResNet(2, (4, 8, 16)), [(2, 3, 16, 16)], IOS15),
    "mobilenet": Network(MobileNet, [(1, 3, 24, 24)], IOS16),
    "convnext": Network(ConvNeXt, [(2, 3, 16, 16)], IOS17),
    "transformer": Network(Transformer, [tokens(2, 7), tokens(2, 5)], IOS15),
    "transformer_ios18": Network(Transformer, [tokens(1, 7), tokens(1, 5)], IOS18),
    "attention": Network(TorchAttention, [(2, 6, 16), (6, 6)], IOS18),
    "attention_ios16": Network(TorchAttention, [(2, 6, 16), (6, 6)], IOS16),
    "vision_transformer": Network(VisionTransformer, [(2, 3, 16, 16)], IOS17),
    "lstm": Network(lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True), [tokens(2, 6)], IOS15),
    "lstm_forward": Network(lambda: Recurrent(nn.LSTM), [tokens(2, 6)], IOS18),
    "gru": Network(lambda: Recurrent(nn.GRU, num_layers=2, bidirectional=True), [tokens(2, 6)], IOS17),
    "rnn": Network(lambda: Recurrent(nn.RNN, nonlinearity="relu"), [tokens(2, 6)], IOS16),
    "audio": Network(Audio, [(2, 1, 64)], IOS16),
    "unet": Network(UNet, [(2, 3, 16, 16), np.array([3.0, 11.0], np.float32)], IOS17),
    "super_resolution": Network(SuperResolution, [(1, 3, 8, 6)], IOS16),
    "style_transfer": Network(StyleTransfer, [(1, 3, 16, 16), (1, 3, 16, 16)], IOS18),
    "detector": Network(Detector, [(1, 3, 16, 16)], IOS17),
    "keypoints": Network(Keypoints, [(2, 3, 15, 17)], IOS16),
    "vision_ops": Network(VisionOps, [(2, 4, 6, 8)], IOS17),
}
