"""A calibration that was stopped goes on at the op where it stopped, and only with the same of everything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mil_palettize import Calibration, OpPalettizerConfig, OptimizationConfig, palettize_package  # noqa: E402
from mil_palettize.doors import calibrating  # noqa: E402
from mil_palettize.torch.evaluator.module import MILModule  # noqa: E402
from mil_palettize.torch.made_up_inputs import plausible_inputs  # noqa: E402

NAME = "conv_fp32_ios18.mlpackage"


def config(nbits: int = 2) -> OptimizationConfig:
    return OptimizationConfig(global_config=OpPalettizerConfig(nbits=nbits, weight_threshold=64))


@pytest.fixture
def data(fixtures: Path) -> list[dict[str, np.ndarray]]:
    return plausible_inputs(MILModule.from_package(fixtures / NAME), 10)


@pytest.fixture
def solved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Weights that a palette was chosen for, in turn."""
    names: list[str] = []
    solve = calibrating.solved

    def counted(task: Any, *given: Any) -> Any:
        names.append(task.source.name)
        return solve(task, *given)

    monkeypatch.setattr(calibrating, "solved", counted)
    return names


def contents(package: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted(package.rglob("*")) if file.suffix in (".bin", ".mlmodel")]


def test_it_goes_on_where_it_stopped(
    fixtures: Path, tmp_path: Path, data: list[dict[str, np.ndarray]], solved: list[str]
) -> None:
    """What was chosen before the interrupt is not chosen again; what comes after it is as in a run in one go."""
    whole, kept = tmp_path / "whole.mlpackage", tmp_path / "kept"
    palettize_package(fixtures / NAME, whole, config(), calibration=Calibration(data))
    wanted = list(solved)
    assert len(wanted) > 2
    solved.clear()

    def stop(event: Any) -> None:
        if len(solved) == 2:
            raise KeyboardInterrupt

    out = tmp_path / "out.mlpackage"
    with pytest.raises(KeyboardInterrupt):
        palettize_package(fixtures / NAME, out, config(), calibration=Calibration(data), resume=kept, progress=stop)
    assert not out.exists()
    assert solved == wanted[:2]
    solved.clear()
    first = palettize_package(fixtures / NAME, out, config(), calibration=Calibration(data), resume=kept)
    assert solved == wanted[2:]
    assert contents(out) == contents(whole)
    solved.clear()
    second = palettize_package(
        fixtures / NAME, out, config(), calibration=Calibration(data), resume=kept, overwrite=True, verify=True
    )
    assert not solved
    assert contents(out) == contents(whole)
    told = [[w.calibration for w in report.palettized] for report in (first, second)]
    assert told[0] == told[1]
    assert any(one is not None and one.method.startswith("compensated") for one in told[1])


@pytest.mark.parametrize(
    ("change", "again"),
    [("nothing", False), ("memory", False), ("samples", True), ("fewer", True), ("seed", True), ("rounds", True),
     ("nbits", True)],
)  # fmt: skip
def test_other_samples_or_options_begin_anew(
    fixtures: Path, tmp_path: Path, data: list[dict[str, np.ndarray]], solved: list[str], change: str, again: bool
) -> None:
    kept = tmp_path / "kept"
    palettize_package(fixtures / NAME, tmp_path / "1.mlpackage", config(), calibration=Calibration(data), resume=kept)
    solved.clear()
    other, options = list(data), {"seed": {"seed": 1}, "rounds": {"rounds": 3}, "memory": {"memory": 1}}
    if change == "samples":
        other[3] = {name: array * np.float32(1.5) for name, array in data[3].items()}
    if change == "fewer":
        other = data[:-1]
    calibration = Calibration(other, **options.get(change, {}))  # type: ignore[arg-type]
    palettize_package(
        fixtures / NAME, tmp_path / "2.mlpackage", config(3 if change == "nbits" else 2), calibration=calibration,
        resume=kept,
    )  # fmt: skip
    assert bool(solved) == again
