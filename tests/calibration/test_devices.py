"""The walk on another device: the same network, as far as its numbers allow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mil_palettize.torch.calibration.walk import Collected, WalkOptions, walk  # noqa: E402
from mil_palettize.torch.evaluator.module import MILModule  # noqa: E402
from mil_palettize.torch.made_up_inputs import plausible_inputs  # noqa: E402

DEVICES = [
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")),
    pytest.param("mps", marks=pytest.mark.skipif(not torch.backends.mps.is_available(), reason="no Metal here")),
]
PROGRAMS = ["conv_fp32_ios18", "loop_ios16", "recurrent_fp32_ios16", "stateful_ios18", "embedding_linear_ios16"]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("memory", [1 << 30, 1], ids=["in memory", "on disk"])
def test_moments_and_outputs_are_those_of_the_processor(fixtures: Path, name: str, device: str, memory: int) -> None:
    module = MILModule.from_package(fixtures / f"{name}.mlpackage")
    samples = [module.features.tensors(sample) for sample in plausible_inputs(module, 6)]
    weights = {slot: weight.detach().numpy().copy() for slot, weight in module.weights.items()}
    told: dict[str, list[Collected]] = {}

    def solve(found: Collected) -> np.ndarray:
        told.setdefault(found.slot, []).append(found)
        if found.trial is not None:
            assert found.trial(weights[found.slot]) < 1.0
        return np.round(weights[found.slot] * 2) / 2

    options = [WalkOptions(held=frozenset({5})), WalkOptions(held=frozenset({5}), device=device, memory=memory)]
    here, there = (walk(module, samples, list(weights), solve, one) for one in options)
    for one, two in zip((*here.before, *here.after), (*there.before, *there.after), strict=True):
        assert all(value.device.type == "cpu" for value in two.values())
        for output, value in one.items():
            torch.testing.assert_close(two[output], value, rtol=1e-2, atol=1e-2)
    for one, two in told.values():
        for first, second in zip(one.moments, two.moments, strict=True):
            scale = float(np.abs(first.square).max())
            np.testing.assert_allclose(second.square, first.square, rtol=1e-2, atol=1e-3 * scale)
        if one.reads is not None:
            assert np.array_equal(one.reads, two.reads)
