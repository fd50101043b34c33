"""Small networks of images: to classes, to images, to places in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from sequence_networks import Attention, Layer
from torch import Tensor, nn
from torch.nn import functional as F

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
