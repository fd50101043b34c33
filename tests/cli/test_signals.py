"""Signals: what is told, what is left behind, the exit codes, and that no compiled loop is waited for."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from slow_cases import slow_where

IN, OUT = "in.mlpackage", "out.mlpackage"
NOTHING = "mil-palettize: error: interrupted; nothing was written\n"
STOPPING = "mil-palettize: stopping; once more to end at once\n"
# A palette takes a minute, in a call that releases the GIL and hears no signal, as compiled loops are.
SLOW = """
import ctypes, sys, time
from mil_palettize.cli.main import main
from mil_palettize.encoding import encoder
def slow(*arguments, **options):
    sys.stdout.write("slow\\n")  # at once: two threads may come here
    sys.stdout.flush()
    ctypes.CDLL(None).sleep(60)
encoder.make_palette = slow
"""
# What unwinds takes a minute.
CLINGING = """
from mil_palettize.package import disk
def cling(path):
    print("clinging", flush=True)
    time.sleep(60)
disk.remove_tree = cling
"""
RUN = f"sys.exit(main(['palettize', '{IN}', '{OUT}', '--nbits', '4', '--quiet', *sys.argv[1:]]))"


@pytest.fixture
def folder(tmp_path: Path, fixtures: Path) -> Path:
    shutil.copytree(fixtures / "conv_fp16_ios16.mlpackage", tmp_path / IN)
    return tmp_path


def started(folder: Path, code: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, stdout=pipe, stderr=pipe, text=True, preexec_fn=_as_in_a_terminal)


def _as_in_a_terminal() -> None:
    """What is run in the background, as tests may be, ignores interrupts, and so would the process started here."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline()


@pytest.mark.parametrize(
    ("number", "code", "told", "workers"),
    slow_where(
        lambda number, code, told, workers: workers == 2 and number != signal.SIGTERM,
        [
            (number, code, told, workers)
            for workers in (1, 2)
            for number, code, told in (
                (signal.SIGINT, 130, STOPPING + NOTHING),
                (signal.SIGTERM, 143, NOTHING),
                (signal.SIGHUP, 129, NOTHING),
            )
        ],
    ),
)
def test_a_signal_ends_the_run(folder: Path, number: int, code: int, told: str, workers: int) -> None:
    with started(folder, SLOW + RUN, "--workers", str(workers)) as child:
        assert line(child) == "slow\n"
        child.send_signal(number)
        assert child.wait(30) == code  # of the minute that the palettes take
        assert child.stderr is not None
        assert child.stderr.read() == told
    assert [path.name for path in folder.iterdir()] == [IN]


def test_the_second_signal_ends_the_process(folder: Path) -> None:
    with started(folder, SLOW + CLINGING + RUN) as child:
        assert line(child) == "slow\n"
        child.send_signal(signal.SIGINT)
        while line(child) == "slow\n":
            pass
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 143
        assert child.stderr is not None
        assert child.stderr.read() == STOPPING
