"""A small torch network, batches to train it with, and configs for all of it or one of its modules."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from mil_palettize.torch import DKMPalettizerConfig


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 12, 3)
        self.linear = nn.Linear(12, 20)
        self.last = nn.Linear(20, 4)

    def forward(self, x):
        x = F.relu(self.up(F.relu(self.norm(self.conv(x)))))
        return self.last(F.relu(self.linear(x.mean((2, 3)))))


def data(count=6):
    torch.manual_seed(1)
    return [(torch.randn(8, 3, 8, 8), torch.randint(0, 4, (8,))) for _ in range(count)]


def trained(model, palettizer, batches=None):
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for x, y in batches or data():
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        palettizer.step()
    return model


def net():
    torch.manual_seed(0)
    return Net()


def config(**options):
    return DKMPalettizerConfig.from_dict({"global_config": {"weight_threshold": 0, **options}})


def named(name, **options):
    return DKMPalettizerConfig.from_dict({"module_name_configs": {name: {"weight_threshold": 0, **options}}})


def values(weight):
    return len(weight.unique())
