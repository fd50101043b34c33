"""Models with states: a sample is a sequence of calls, of which each begins where the one before ended."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mil_palettize import (  # noqa: E402
    Calibration,
    ConfigError,
    EvaluationError,
    OpPalettizerConfig,
    OptimizationConfig,
    compare,
    palettize_package,
)
from mil_palettize.doors.calibration_samples import Calls  # noqa: E402
from mil_palettize.torch.calibration.part import one_thread  # noqa: E402
from mil_palettize.torch.calibration.sequences import states_before  # noqa: E402
from mil_palettize.torch.calibration.walk import WalkOptions, walk  # noqa: E402
from mil_palettize.torch.evaluator.module import MILModule  # noqa: E402
from mil_palettize.torch.made_up_inputs import plausible_inputs  # noqa: E402

NAME = "stateful_ios18.mlpackage"


def sequences(fixtures: Path, count: int, length: int) -> list[list[dict[str, np.ndarray]]]:
    module = MILModule.from_package(fixtures / NAME)
    calls = plausible_inputs(module, count * length)
    return [calls[i * length : (i + 1) * length] for i in range(count)]


@pytest.mark.parametrize("memory", [1 << 30, 1], ids=["in memory", "on disk"])
def test_each_call_of_the_float_stream_is_that_of_a_run_in_turn(fixtures: Path, memory: int) -> None:
    module = MILModule.from_package(fixtures / NAME)
    wanted, calls, begins = [], [], []
    for sequence in sequences(fixtures, 3, 4):
        state = module.make_state()
        for number, call in enumerate(sequence):
            tensors = module.features.tensors(call)
            calls.append(tensors)
            begins.append(number == 0)
            with torch.no_grad(), one_thread():
                wanted.append(module.run(tensors, state))
    states = states_before(module, calls, begins)
    found = walk(module, calls, list(module.weights), lambda c: None, WalkOptions(memory=memory), states=states)
    for one, two in zip(found.before, wanted, strict=True):
        assert all(torch.equal(one[name], two[name]) for name in two)
    alone = walk(module, calls, list(module.weights), lambda c: None, WalkOptions())
    assert any(not torch.equal(one[n], two[n]) for one, two in zip(alone.before, wanted, strict=True) for n in two)


def test_a_model_is_calibrated_on_sequences(fixtures: Path, tmp_path: Path) -> None:
    config = OptimizationConfig(global_config=OpPalettizerConfig(nbits=2, weight_threshold=64))
    found = {}
    for name, data in (("sequences", sequences(fixtures, 10, 4)), ("calls", sequences(fixtures, 40, 1))):
        out = tmp_path / f"{name}.mlpackage"
        report = palettize_package(fixtures / NAME, out, config, calibration=Calibration(data), verify=True)
        assert report.verified
        assert {w.calibration.samples for w in report.palettized if w.calibration is not None} == {32}
        found[name] = [file.read_bytes() for file in sorted(out.rglob("*.bin"))]
        assert compare(fixtures / NAME, out).outputs
    assert found["sequences"] != found["calls"]


def test_calls_of_a_sample_are_held_out_together() -> None:
    calls = Calls([{}] * 12, [True, False] * 6)
    assert calls.held == {8, 9}
    assert Calls([{}] * 12, [True] + [False] * 11).held == {4, 9}


@pytest.mark.parametrize("data", [[[]], [[{"x": np.zeros(2)}, 3]], [[[{"x": np.zeros(2)}]]]])
def test_sequences_that_are_none(data: list[object]) -> None:
    with pytest.raises(ConfigError, match="sample 0 of calibration sample_data is"):
        Calibration(data)  # type: ignore[arg-type]


def test_sequences_of_a_file(fixtures: Path, tmp_path: Path) -> None:
    """A calibration takes them; what takes single samples says that it does not."""
    first = sequences(fixtures, 1, 1)[0][0]
    made = {name: f"np.zeros({array.shape}, np.{array.dtype})" for name, array in first.items()}
    call = ", ".join(f"{name!r}: {text}" for name, text in made.items())
    file = tmp_path / "calls.py"
    file.write_text(f"import numpy as np\ndef given():\n    yield [{{{call}}}, {{{call}}}]\n")
    config = OptimizationConfig(global_config=OpPalettizerConfig(nbits=2, weight_threshold=64))
    report = palettize_package(
        fixtures / NAME, tmp_path / "o.mlpackage", config, calibration=Calibration(f"{file}:given")
    )
    assert any(note.startswith("calibrated on 2 calls only") for note in report.notes)
    from mil_palettize.torch.samples import read_samples

    with pytest.raises(EvaluationError, match="is a sequence of calls, which is for calibration and compare"):
        read_samples(f"{file}:given", MILModule.from_package(fixtures / NAME))
