"""Fine tunings that are stopped, and go on from the folder of ``resume``."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from finetuned_packages import CONFIG, float_package, samples  # noqa: E402
from packages import differences  # noqa: E402

from mil_palettize import Calibration, Finetuning, ProgressEvent, palettize_package  # noqa: E402
from mil_palettize.cli.main import main  # noqa: E402
from mil_palettize.errors import PlanError  # noqa: E402

# The command, which waits a minute where the second block (or epoch) has been kept.
WAITING = """
import sys, time
from mil_palettize.cli.main import main
from mil_palettize.encoding.palette_cache import Clustered
keep, count = Clustered.keep_state, iter(range(9))
def slow(*arguments):
    keep(*arguments)
    if next(count) == 1:
        print("kept", flush=True)
        time.sleep(60)
Clustered.keep_state = slow
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return float_package(tmp_path_factory.mktemp("finetuned"))


def stopped(package: Path, path: Path, finetuning: Finetuning, folder: Path | None, step: int) -> list[str]:
    """What is told of a run that is interrupted at its ``step``th step (or block), 0 for never."""
    told: list[str] = []

    def watch(event: ProgressEvent) -> None:
        told.append(event.name)
        if step and sum(map(_is_step, told)) == step:
            raise KeyboardInterrupt

    palettize_package(
        package, path, CONFIG, calibration=Calibration(samples(40)), finetuning=finetuning, resume=folder,
        progress=watch,
    )  # fmt: skip
    return list(filter(_is_step, told))


def _is_step(told: str) -> bool:
    return told.startswith("epoch") or told.endswith("blocks got better")


def test_an_interrupted_run_goes_on_after_the_last_epoch(package: Path, tmp_path: Path) -> None:
    """And gives the bytes of a run that was not interrupted; one that is done is not trained again."""
    asked = Finetuning(epochs=3, batch=16)  # two steps each
    stopped(package, tmp_path / "whole.mlpackage", asked, None, 0)
    with pytest.raises(KeyboardInterrupt):
        stopped(package, tmp_path / "out.mlpackage", asked, tmp_path / "kept", 4)
    assert not (tmp_path / "out.mlpackage").exists()
    told = stopped(package, tmp_path / "out.mlpackage", asked, tmp_path / "kept", 0)
    assert told[0].startswith("epoch 2 of 3")
    assert not differences(tmp_path / "whole.mlpackage", tmp_path / "out.mlpackage")
    assert stopped(package, tmp_path / "again.mlpackage", asked, tmp_path / "kept", 0) == []
    assert not differences(tmp_path / "whole.mlpackage", tmp_path / "again.mlpackage")
    other = Finetuning(epochs=3, batch=16, learning_rate=0.02)
    assert stopped(package, tmp_path / "other.mlpackage", other, tmp_path / "kept", 0)[0].startswith("epoch 1 of 3")


def test_what_an_interrupted_run_came_to_is_written(package: Path, tmp_path: Path) -> None:
    """That of its best epoch: the package of a run that was stopped before there was another."""
    asked = Finetuning(epochs=3, batch=16)
    with pytest.raises(KeyboardInterrupt):
        stopped(package, tmp_path / "out.mlpackage", asked, tmp_path / "kept", 4)
    told = stopped(package, tmp_path / "out.mlpackage", replace(asked, stop_here=True), tmp_path / "kept", 0)
    assert told == []
    assert stopped(package, tmp_path / "whole.mlpackage", asked, tmp_path / "kept", 0)[0].startswith("epoch 2 of 3")
    palettize_package(package, tmp_path / "before.mlpackage", CONFIG, calibration=Calibration(samples(40)))
    assert differences(tmp_path / "out.mlpackage", tmp_path / "before.mlpackage")
    other = replace(asked, stop_here=True, seed=1)
    with pytest.raises(PlanError, match="no epoch of this fine tuning is kept; give the folder"):
        stopped(package, tmp_path / "other.mlpackage", other, tmp_path / "kept", 0)


def test_blocks_that_are_done_are_not_fitted_again(package: Path, tmp_path: Path) -> None:
    """And give the bytes of a run that was not interrupted; with ``stop_here`` they are what is written."""
    asked = Finetuning(epochs=3, batch=16, blocks=True)
    whole, kept = tmp_path / "whole.mlpackage", tmp_path / "kept"
    assert len(stopped(package, whole, asked, None, 0)) == 3
    with pytest.raises(PlanError, match="no block of this fine tuning is kept; give the folder"):
        stopped(package, tmp_path / "none.mlpackage", replace(asked, stop_here=True), kept, 0)
    with pytest.raises(KeyboardInterrupt):
        stopped(package, tmp_path / "out.mlpackage", asked, kept, 2)
    assert stopped(package, tmp_path / "early.mlpackage", replace(asked, stop_here=True), kept, 0) == []
    assert len(stopped(package, tmp_path / "out.mlpackage", asked, kept, 0)) == 1
    assert not differences(whole, tmp_path / "out.mlpackage")
    assert differences(whole, tmp_path / "early.mlpackage")
    assert stopped(package, tmp_path / "again.mlpackage", asked, kept, 0) == []
    assert not differences(whole, tmp_path / "again.mlpackage")
    for damaged in kept.rglob("*.npz"):
        damaged.write_bytes(damaged.read_bytes()[:-40])
    assert len(stopped(package, tmp_path / "anew.mlpackage", asked, kept, 0)) == 3
    assert not differences(whole, tmp_path / "anew.mlpackage")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--blocks"], "after the last block in kept, and with --stop-here writes those that are done"),
        pytest.param(
            [], "after the last epoch in kept, and with --stop-here writes the best one so far", marks=pytest.mark.slow
        ),
    ],
    ids=["blocks", "epochs"],
)
def test_a_signal(
    options: list[str], told: str, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends, and the same command goes on."""
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", x=np.stack([sample["x"] for sample in samples(40)]))
    palettes = ["--data", "x.npz", "--nbits", "2", "--weight-threshold", "0", "--calibrate", "weights", *options]
    command = ["finetune", str(package), *palettes, "--out", "out.mlpackage", "--resume", "kept", "--quiet"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", WAITING, *command], stdout=pipe, stderr=pipe, text=True, preexec_fn=_as_in_a_terminal
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline() == "kept\n"
        child.send_signal(signal.SIGINT)
        assert child.wait(30) == 130
        said = child.stderr.read()
    assert re.search(f"error: interrupted; nothing was written; the same command goes on {told}$", said)
    assert sorted(os.listdir()) == ["kept", "x.npz"]
    assert main(command) == 0
    assert main(["finetune", str(package), *palettes, "--out", "whole.mlpackage", "--quiet"]) == 0
    assert not differences(tmp_path / "out.mlpackage", tmp_path / "whole.mlpackage")


def _as_in_a_terminal() -> None:
    """What is run in the background, as tests may be, ignores interrupts, and so would the process started here."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
