"""Runs that are killed or interrupted, or two at a time, and the folder from which a later one goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from form_packages import GROUPS, Form
from handmade import contents
from kept_palettes import PLAIN, WEIGHTS, Counts, files
from replacing_runs import acting

from mil_palettize.cli import main as cli
from mil_palettize.encoding import encoder as encode


def child(work: Callable[[], object]) -> int:
    """A process that works and ends with 0, or what ``work`` gives."""
    process = os.fork()
    if process == 0:
        code = 99
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            result = work()
            code = result if isinstance(result, int) else 0
        finally:
            os._exit(code)
    return process


def ended(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def signalled(number: int, sent: signal.Signals, what: str) -> None:
    """Send this process a signal at the call ``number`` (from 0) of ``what``."""
    module: Any = Path if what == "write_bytes" else encode
    original, calls = getattr(module, what), iter(range(10**6))

    def call(*arguments: Any, **keywords: Any) -> Any:
        if next(calls) == number:
            if what == "write_bytes":
                original(arguments[0], b"half of it")
            os.kill(os.getpid(), sent)
        return original(*arguments, **keywords)

    setattr(module, what, call)


def test_two_runs_at_the_same_time(tmp_path: Path) -> None:
    PLAIN.source()  # made once
    children = [child(lambda n=n: PLAIN.palettize(tmp_path / f"{n}.mlpackage", resume=tmp_path / "kept")) for n in "ab"]
    assert [ended(process) for process in children] == [0, 0]
    PLAIN.palettize(tmp_path / "plain.mlpackage")
    for name in "ab":
        assert contents(tmp_path / f"{name}.mlpackage") == contents(tmp_path / "plain.mlpackage")
    assert {path.suffix for path in files(tmp_path / "kept")} == {".npz"}


@pytest.mark.parametrize(
    ("what", "number", "left"),
    [
        ("make_palette", 0, 4),
        ("make_palette", 2, 2),
        ("write_bytes", 0, 4),
        ("write_bytes", 1, 4),
        ("write_bytes", 7, 1),
    ],
)
def test_killed_run_is_resumed(what: str, number: int, left: int, counts: Counts, tmp_path: Path) -> None:
    out, kept = tmp_path / "out.mlpackage", tmp_path / "kept"

    def run() -> None:
        signalled(number, signal.SIGKILL, what)
        PLAIN.palettize(out, workers=1, resume=kept)

    assert ended(child(run)) == -signal.SIGKILL
    assert not out.exists()
    partial = [path for path in files(kept) if path.name.startswith(".")]
    assert len(partial) == (what == "write_bytes")
    PLAIN.palettize(out, workers=1, resume=kept)
    assert counts["make_palette"] == left
    PLAIN.palettize(tmp_path / "plain.mlpackage", workers=1)
    assert contents(out) == contents(tmp_path / "plain.mlpackage")
    assert sorted(os.listdir(tmp_path)) == ["kept", "out.mlpackage", "plain.mlpackage"]
    assert {path.suffix for path in files(kept)} == {".npz"}


def command(*arguments: object) -> list[str]:
    return ["palettize", str(PLAIN.source()), *map(str, arguments), "--nbits=4", "--weight-threshold=100", "--quiet"]


@pytest.mark.parametrize(("what", "number"), [("make_palette", 0), ("make_palette", 3), ("write_bytes", 2)])
def test_interrupted_command_is_resumed(
    what: str, number: int, counts: Counts, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out, kept = tmp_path / "out.mlpackage", tmp_path / "kept"
    arguments = command(out, "--resume", kept, "--workers", 1)  # a fork has one thread

    def run() -> int:
        signalled(number, signal.SIGINT, what)
        return cli.main(arguments)

    assert ended(child(run)) == cli.EXIT_INTERRUPTED
    assert capfd.readouterr().err.endswith(
        "mil-palettize: stopping; once more to end at once\nmil-palettize: error: interrupted; nothing was written\n"
    )
    assert os.listdir(tmp_path) in ([], ["kept"])
    done = {path.suffix for path in files(kept)}
    assert done <= {".npz"}
    assert cli.main(arguments) == 0
    assert counts["make_palette"] <= WEIGHTS - (number == 3)
    before = dict(counts)
    assert cli.main([*arguments, "--overwrite"]) == 0
    assert counts.since(before) == (0, 0)
    assert cli.main(command(tmp_path / "plain.mlpackage")) == 0
    assert contents(out) == contents(tmp_path / "plain.mlpackage")


def test_interrupt_at_any_change_of_files(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Up to the end of the swap nothing, or all of it, is there."""
    assert cli.main(command(tmp_path / "plain.mlpackage")) == 0
    with acting(10**9, lambda: None) as operations:
        assert cli.main(command(tmp_path / "count.mlpackage")) == 0
    for number in range(0, len(operations), 3):
        folder = tmp_path / str(number)
        folder.mkdir()

        def run(number: int = number, folder: Path = folder) -> int:
            with acting(number, lambda: os.kill(os.getpid(), signal.SIGINT)):
                return cli.main(command(folder / "out.mlpackage", "--resume", folder / "kept", "--workers", 1))

        assert ended(child(run)) == cli.EXIT_INTERRUPTED, operations[number]
        complete = "is complete" in capfd.readouterr().err
        assert set(os.listdir(folder)) - {"kept"} == ({"out.mlpackage"} if complete else set()), operations[number]
        if complete:
            assert contents(folder / "out.mlpackage") == contents(tmp_path / "plain.mlpackage")


def test_real_command_interrupted_and_resumed(tmp_path: Path) -> None:
    """As from a terminal, at whatever moment it is when the first palette has been kept."""
    out, kept = tmp_path / "out.mlpackage", tmp_path / "kept"
    line = [sys.executable, "-m", "mil_palettize", *command(out, "--resume", kept, "--workers", 1, "--granularity")]
    line.insert(line.index("--granularity") + 1, "per_grouped_channel")
    line += ["--group-size=4"]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (kept.exists() and files(kept)):
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode in (0, cli.EXIT_INTERRUPTED)
    if process.returncode == cli.EXIT_INTERRUPTED and "is complete" not in errors:
        stopping = "mil-palettize: stopping; once more to end at once\n"  # not while modules are imported
        assert errors.removeprefix(stopping) == "mil-palettize: error: interrupted; nothing was written\n"
        assert os.listdir(tmp_path) == ["kept"]
    arguments = [*line[3:], "--overwrite"]
    assert cli.main(arguments) == 0
    Form({"nbits": 4} | GROUPS).palettize(tmp_path / "plain.mlpackage", workers=1)
    assert contents(out) == contents(tmp_path / "plain.mlpackage")
