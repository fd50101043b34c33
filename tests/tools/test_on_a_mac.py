"""The measurement on a Mac, with a stand-in for coremltools: what it asks, and what it makes of the answers."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tools.on_a_mac import UNITS, WARM_UP, main, measured

EXPECTED = np.array([3.0, 4.0], np.float32)


class Engine:
    """Where the stand-in says that ops run."""


class Processor:
    """Where it says that the others do."""


class FakeModel:
    """Adds 0.5 to one element, and refuses the Neural Engine."""

    calls = 0

    def __init__(self, path: str, compute_units: str) -> None:
        if compute_units == "CPU_AND_NE":
            raise RuntimeError("ANECCompile() FAILED")
        self.path = path

    def predict(self, sample: dict[str, np.ndarray]) -> dict[str, object]:
        FakeModel.calls += 1
        return {"y": sample["x"] + np.array([0.5, 0], np.float32), "label": "cat"}

    def get_compiled_model_path(self) -> str:
        return f"{self.path}c"


class FakePlan:
    @staticmethod
    def load_from_path(path: str, unit: str) -> SimpleNamespace:
        assert path.endswith(".mlpackagec")
        operations = [
            SimpleNamespace(operator_name=name) for name in ("const", "ios18.conv", "ios18.conv", "ios18.lstm")
        ]
        usage = {"ios18.conv": Engine(), "ios18.lstm": Processor()}
        return SimpleNamespace(
            model_structure=SimpleNamespace(
                program=SimpleNamespace(
                    functions={"main": SimpleNamespace(block=SimpleNamespace(operations=operations))}
                )
            ),
            get_compute_device_usage_for_mlprogram_operation=lambda op: (
                None
                if op.operator_name == "const"
                else SimpleNamespace(preferred_compute_device=usage[op.operator_name])
            ),
        )


COREMLTOOLS = SimpleNamespace(
    __version__="9.0",
    ComputeUnit=SimpleNamespace(**{unit: unit for unit in UNITS}),
    models=SimpleNamespace(MLModel=FakeModel, compute_plan=SimpleNamespace(MLComputePlan=FakePlan)),
)


def test_what_is_measured() -> None:
    FakeModel.calls = 0
    ticks = itertools.count(0, 2)
    found = measured(
        COREMLTOOLS,
        Path("in.mlpackage"),
        [{"x": EXPECTED}],
        [{"y": EXPECTED, "label": "cat"}],
        repeats=4,
        clock=lambda: float(next(ticks)),
    )
    json.dumps(found, allow_nan=False)
    assert found["units"]["CPU_AND_NE"] == {"error": "RuntimeError: ANECCompile() FAILED"}
    assert set(found["units"]) == set(UNITS)
    one = found["units"]["ALL"]
    assert one["median_seconds"] == one["fastest_seconds"] == one["load_seconds"] == 2  # a tick between two looks
    assert one["snr_db"] == {"label": None, "y": pytest.approx(20)}  # 25 against a quarter
    assert one["ops"] == {"ios18.conv": {"Engine": 2}, "ios18.lstm": {"Processor": 1}}
    assert one["devices"] == {"Engine": 2, "Processor": 1}
    assert FakeModel.calls == 3 * (1 + WARM_UP + 4)


@pytest.mark.skipif(sys.platform == "darwin", reason="of other systems")
def test_other_systems_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["in.mlpackage"]) == 2
    assert capsys.readouterr().err == "on_a_mac: error: Core ML runs on Macs only\n"
