"""Weights behind which the op saturates: large ones that hardly count, which moments of inputs cannot tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

torch = pytest.importorskip("torch")

from evaluator import program_of, saved  # noqa: E402

from mil_palettize import Calibration, OpPalettizerConfig, OptimizationConfig, compare, palettize_package  # noqa: E402
from mil_palettize.calibration.choice import FISHER  # noqa: E402
from mil_palettize.torch import MILModule  # noqa: E402
from mil_palettize.torch.calibration.walk import Collected, WalkOptions, walk  # noqa: E402

STEPS, INPUTS, UNITS = 24, 32, 48


def recurrent(folder: Path) -> Path:
    """An eighth of the gates have weights so large, and biases, that they are nearly always open or closed."""
    random = np.random.default_rng(0)
    large = (random.uniform(size=(4 * UNITS, 1)) < 0.125) * random.uniform(20.0, 80.0, (4 * UNITS, 1)) + 1.0
    shapes = {"weight_ih": (4 * UNITS, INPUTS), "weight_hh": (4 * UNITS, UNITS)}
    weights = {n: (random.uniform(-0.2, 0.2, s) * large).astype(np.float32) for n, s in shapes.items()}
    weights["bias"] = ((large - 1.0) * random.choice([-1.2, 1.2], large.shape)).reshape(-1).astype(np.float32)
    state = np.zeros((1, UNITS), np.float32)
    program = program_of(
        lambda x: mb.lstm(x=x, initial_h=state, initial_c=state, output_sequence=True, **weights)[0],
        [((STEPS, 1, INPUTS), np.float32)],
    )
    return saved(program, folder)


def smooth(count: int, seed: int) -> list[dict[str, np.ndarray]]:
    random, time = np.random.default_rng(seed), np.arange(STEPS)[:, None, None]
    speeds, phases = (random.uniform(0.0, most, (count, 1, 1, INPUTS)) for most in (0.6, 6.3))
    return [{"x0": np.sin(time * s + p).astype(np.float32)} for s, p in zip(speeds, phases, strict=True)]


def test_an_lstm_whose_large_weights_sit_in_saturated_gates(tmp_path: Path) -> None:
    """At 8 bits, on samples that the calibration never saw, the output is at least 9 dB nearer."""
    source, samples, others = recurrent(tmp_path), smooth(40, 0), smooth(20, 1)
    config = OptimizationConfig(global_config=OpPalettizerConfig(nbits=8, weight_threshold=64))
    found = []
    for name, calibration in (("plain", None), ("made", Calibration(samples))):
        written = tmp_path / f"{name}.mlpackage"
        report = palettize_package(source, written, config, calibration=calibration)
        found.append(compare(source, written, others).outputs[0].snr_db)
    methods = {w.calibration.method for w in report.palettized if w.calibration is not None}
    assert FISHER in methods
    assert found[1] > found[0] + 9.0


def test_what_an_output_depends_on_behind_its_non_linearity(tmp_path: Path) -> None:
    """Of tanh(W x) each element's squared gradient is ((1 - tanh²) x)², whatever the signs."""
    random = np.random.default_rng(0)
    weight = random.normal(size=(3, 4)).astype(np.float32) * 2
    program = program_of(lambda x: mb.tanh(x=mb.linear(x=x, weight=weight)), [((1, 4), np.float32)])
    module = MILModule.from_package(saved(program, tmp_path))
    samples = [{"x0": torch.from_numpy(random.normal(size=(1, 4)).astype(np.float32))} for _ in range(6)]
    given: list[Collected] = []
    walk(module, samples, list(module.weights), given.append, WalkOptions(held=frozenset({2, 5})))
    inputs = np.concatenate([sample["x0"].numpy() for i, sample in enumerate(samples) if i not in (2, 5)])
    slopes = 1.0 - np.tanh(inputs @ weight.T) ** 2
    wanted = ((slopes[:, :, None] * inputs[:, None, :]) ** 2).mean(axis=0)
    assert given[0].sensitivity is not None
    np.testing.assert_allclose(given[0].sensitivity, wanted, rtol=1e-4, atol=1e-9)


def test_moments_say_it_where_nothing_saturates(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    program = program_of(lambda x: mb.relu(x=mb.linear(x=x, weight=weight)), [((1, 4), np.float32)])
    module = MILModule.from_package(saved(program, tmp_path))
    given: list[Collected] = []
    walk(module, [{"x0": torch.ones(1, 4)}] * 5, list(module.weights), given.append, WalkOptions(held=frozenset({4})))
    assert given[0].sensitivity is None
    assert given[0].moments


def test_what_the_function_gives_counts_as_it_is(tmp_path: Path) -> None:
    """Also where an op that saturates is all else that reads it: the errors before that one are seen."""
    weight = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)

    def network(x: Any) -> Any:
        shown = mb.relu(x=mb.linear(x=x, weight=weight))
        return shown, mb.tanh(x=shown)

    module = MILModule.from_package(saved(program_of(network, [((1, 4), np.float32)]), tmp_path))
    given: list[Collected] = []
    samples = [{"x0": torch.full((1, 4), float(i))} for i in range(5)]
    walk(module, samples, list(module.weights), given.append, WalkOptions(held=frozenset({4})))
    assert given[0].sensitivity is None
    assert given[0].trial is not None
    with torch.no_grad():
        outputs = [next(iter(module.run(samples[4]).values()))]
        module.weights[given[0].slot].mul_(1.5)
        outputs.append(next(iter(module.run(samples[4]).values())))
    error, power = (float(x.double().square().sum()) for x in (outputs[1] - outputs[0], outputs[0]))
    assert given[0].trial(weight * np.float32(1.5)) == pytest.approx(error / power)


def test_outputs_that_nothing_reads_do_not_count(tmp_path: Path) -> None:
    """The last cell of the layer, which is far larger than what it gives: with no weight at all the error is that of
    the sequence alone."""
    module = MILModule.from_package(recurrent(tmp_path))
    samples = [module.features.tensors(sample) for sample in smooth(5, 0)]
    errors = {}

    def solve(found: Collected) -> None:
        assert found.trial is not None
        errors[found.slot] = found.trial(np.zeros(module.shapes[found.slot], np.float32))

    walk(module, samples, list(module.weights), solve, WalkOptions(held=frozenset({4})))
    with torch.no_grad():
        (wanted,) = module.run(samples[4]).values()
        for slot, error in errors.items():
            kept = module.weights[slot].clone()
            module.weights[slot].zero_()
            (found,) = module.run(samples[4]).values()
            module.weights[slot].copy_(kept)
            power = float(wanted.double().square().sum())
            assert abs(error - float((found - wanted).double().square().sum()) / power) < 1e-6
    assert len(errors) == 2
