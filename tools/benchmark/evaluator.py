"""Measures MILModule against the torch model it was converted from.

``python -m tools.benchmark.evaluator [--runs N] [--profile]``: both models in turn, medians of processor time, which
other work on the machine hardly changes, with one thread and with as many as torch takes by default.
``--profile``: also the ops that take most time, of each model.
"""

from __future__ import annotations

import argparse
import logging
import math
import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from mil_palettize.reports.tables import format_table
from mil_palettize.torch import MILModule

WANTED = 1.3  # times the eager model


class Block(nn.Module):
    """Two convolutions and a shortcut without weights."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.stride, self.extra = (1 if before == width else 2), (width - before) // 2
        self.conv1 = nn.Conv2d(before, width, 3, self.stride, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.extra:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra, self.extra))
        return F.relu(x + y)


def resnet20() -> nn.Module:
    widths = [16] * 4 + [32] * 3 + [64] * 3
    blocks = [Block(before, width) for before, width in pairwise(widths)]
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm1(x)
        query, key, value = (self._split(part(y)) for part in (self.query, self.key, self.value))
        weights = torch.softmax(query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]), -1)
        x = x + self.out((weights @ value).transpose(1, 2).reshape(x.shape))
        return x + self.down(F.gelu(self.up(self.norm2(x))))

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)


class Recurrent(nn.Module):
    """What a recurrent layer gives of a sequence, without its last state."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layer(x)[0]
        return found


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "ResNet-20, batch 32": (resnet20, (32, 3, 32, 32)),
    "transformer, 12 layers, batch 4": (lambda: nn.Sequential(*(Layer(256, 8) for _ in range(12))), (4, 128, 256)),
    "LSTM 128 to 256, 100 steps": (lambda: Recurrent(nn.LSTM(128, 256)), (100, 1, 128)),
    "GRU 128 to 256, 100 steps": (lambda: Recurrent(nn.GRU(128, 256)), (100, 1, 128)),
    "2 GRU layers both ways, 100 steps of 8": (
        lambda: Recurrent(nn.GRU(64, 64, 2, bidirectional=True, batch_first=True)),
        (8, 100, 64),
    ),
}


def converted(module: nn.Module, x: torch.Tensor) -> MILModule:
    model = ct.convert(
        torch.jit.trace(module, x),
        inputs=[ct.TensorType("x", x.shape)],
        minimum_deployment_target=ct.target.iOS17,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    opened = MILModule.from_package(Path(model.package_path))
    opened.state_dict()  # decodes what a first run would
    return opened


def seconds(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def measured(ours: Callable[[], Any], theirs: Callable[[], Any], runs: int) -> tuple[float, float, float]:
    """Medians of both, which take turns, and of the ratios of their turns."""
    for _ in range(3):
        ours(), theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(runs)]
    return (
        statistics.median(one for one, _ in pairs),
        statistics.median(two for _, two in pairs),
        statistics.median(one / two for one, two in pairs),
    )


def told_profile(call: Callable[[], Any]) -> str:
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(5):
            call()
    return str(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=40))


def run(runs: int, profiled: bool) -> str:
    rows = []
    default = torch.get_num_threads()
    for name, (make, shape) in CASES.items():
        torch.manual_seed(0)
        module, x = make().eval(), torch.randn(shape)
        ours = converted(module, x)
        name_out = ours.function.output_names[0]
        array = x.numpy()
        with torch.no_grad():
            np.testing.assert_allclose(ours(x=x)[name_out], module(x), rtol=1e-3, atol=1e-4)
            calls = {"module(x=…)": lambda m=ours, x=x: m(x=x), "predict": lambda m=ours, a=array: m.predict({"x": a})}
            for threads in sorted({1, default}):
                torch.set_num_threads(threads)
                for called, call in calls.items():
                    one, two, ratio = measured(call, lambda m=module, x=x: m(x), runs)
                    told = [f"{one * 1e3:.2f} ms", f"{two * 1e3:.2f} ms", f"{ratio:.2f}"]
                    rows.append([name, str(threads), called, *told, "yes" if ratio <= WANTED else "no"])
            torch.set_num_threads(default)
            if profiled:
                print(name, told_profile(calls["module(x=…)"]), told_profile(lambda m=module, x=x: m(x)), sep="\n")
    head = ("model", "threads", "called by", "MILModule", "eager torch", "ratio", f"within {WANTED}")
    return format_table(head, rows, 140, right=3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=31)
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    logging.getLogger("coremltools").setLevel(logging.CRITICAL)
    sys.stdout.write(run(arguments.runs, arguments.profile) + "\n")


if __name__ == "__main__":
    main()
