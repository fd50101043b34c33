"""Memory while samples walk: it follows what may be kept, not how many samples there are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

pytest.importorskip("torch")
pytest.importorskip("resource")

from evaluator import program_of, saved

SIZE, CHANNELS = 128, 16  # results of 1 MB
_PEAK = """
import resource, sys
import numpy as np
from mil_palettize.torch import MILModule
from mil_palettize.torch.calibration.walk import WalkOptions, walk
module = MILModule.from_package(sys.argv[1])
weights = {slot: weight.detach().numpy().copy() for slot, weight in module.weights.items()}
random = np.random.default_rng(0)
shape = tuple(int(n) for n in sys.argv[4].split(","))
data = [module.features.tensors({"x0": random.normal(size=shape).astype(np.float32)}) for _ in range(int(sys.argv[2]))]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
walk(module, data, list(weights), lambda c: np.round(weights[c.slot] * 4) / 4, WalkOptions(memory=int(sys.argv[3])))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def peak(package: Path, samples: int, memory: int) -> float:
    """Megabytes that a walk takes beyond what there was before it."""
    shape = ",".join(map(str, (1, 1, SIZE, SIZE)))
    command = [sys.executable, "-c", _PEAK, str(package), str(samples), str(memory), shape]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(found.stdout) * (1 if sys.platform == "darwin" else 1024) / 1e6


@pytest.mark.slow
def test_values_of_many_samples_lie_on_disk(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    first = random.normal(size=(CHANNELS, 1, 3, 3)).astype(np.float32)
    others = [random.normal(size=(CHANNELS, CHANNELS, 3, 3)).astype(np.float32) / 12 for _ in range(3)]

    def network(x):  # type: ignore[no-untyped-def]
        x = mb.conv(x=x, weight=first, pad_type="same")
        for weight in others:
            x = mb.add(x=x, y=mb.relu(x=mb.conv(x=x, weight=weight, pad_type="same")))
        return mb.reduce_mean(x=x, axes=[2, 3])

    package = saved(program_of(network, [((1, 1, SIZE, SIZE), np.float32)]), tmp_path)
    few, many, unlimited = peak(package, 8, 8 << 20), peak(package, 64, 8 << 20), peak(package, 64, 1 << 40)
    print(f"8 samples {few:.0f} MB, 64 samples {many:.0f} MB, 64 without a limit {unlimited:.0f} MB")
    assert unlimited > 200  # 64 samples of a megabyte and more in each of two streams
    assert many < few + 40
