"""Terminals: colours, logs, completion."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from command_line import IN, Run

from mil_palettize.cli.arguments import build_parser
from mil_palettize.cli.colours import coloured, has_colours
from mil_palettize.cli.completion import completion_script
from mil_palettize.cli.main import COMMANDS

PALETTIZE = ("palettize", IN, "o.mlpackage", "--nbits", "4")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_where_there_are_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert has_colours(Terminal())
    assert not has_colours(io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    assert not has_colours(Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not has_colours(Terminal())


def test_what_is_coloured() -> None:
    text = "a → b\n\nweight  shape\n──────  ─────\nnotes 4×4\n\nleft alone:\n    1  warning: small: w\nnotes: two\n"
    shown = coloured(text)
    assert re.sub(r"\x1b\[\d*m", "", shown) == text
    assert re.findall(r"\x1b\[\d+m(.*?)\x1b\[0m", shown) == ["──────  ─────", "left alone:", "warning:", "notes:"]


def test_nothing_is_coloured_elsewhere(run: Run) -> None:
    assert "\x1b" not in "".join(map(str, run(*PALETTIZE)))
    assert "\x1b" not in "".join(map(str, run(*PALETTIZE)))  # which is refused now


def test_log(run: Run) -> None:
    code, out, err = run(*PALETTIZE, "-v")
    lines = err.splitlines()
    assert code == 0
    assert "5 constants palettized" in out
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines)
    assert lines[-1].endswith(": 5 of 5 weights")
    assert run(*PALETTIZE, "--overwrite")[2] == ""  # the log is as it was


def test_log_as_json(run: Run) -> None:
    code, out, err = run(*PALETTIZE, "--log-json", "--json")
    assert code == 0
    assert json.loads(out)["destination"] == "o.mlpackage"
    told = [json.loads(line) for line in err.splitlines()]
    assert [one["progress"]["weights_done"] for one in told] == [0, 1, 2, 3, 4, 5]
    assert all(one["level"] == "info" and datetime.fromisoformat(one["time"]).tzinfo for one in told)


def test_log_of_trials(run: Run) -> None:
    pytest.importorskip("torch")
    code, _, err = run("plan", IN, "--target-size", "24kB", "--group-size", "0", "-v")
    lines = [line[len("00:00:00 ") :] for line in err.splitlines()]
    assert code == 0
    tried = [re.sub(r"[\d,.]+ (bytes|dB)", r"… \1", line) for line in lines if " bytes" in line]
    assert tried == [
        "trying mixed bits … bytes: 0 of 2",
        "trying uniform 4 bits … bytes (mixed bits … bytes, … dB): 1 of 2",
        "uniform 4 bits … bytes, … dB: 2 of 2",
    ]  # fmt: skip
    assert lines.count("begun: 0 of 5 weights") == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion(shell: str) -> None:
    pytest.importorskip("shtab")
    script = completion_script(build_parser(COMMANDS), shell)
    assert all(command in script for command in COMMANDS)
    assert "--per-channel-scale" in script


def test_completion_in_bash(tmp_path: Path) -> None:
    pytest.importorskip("shtab")
    (tmp_path / "script").write_text(completion_script(build_parser(COMMANDS), "bash"))
    function = "complete -p mil-palettize | sed 's/.*-F \\([^ ]*\\) .*/\\1/'"
    asked = (
        f"source {tmp_path}/script; COMP_WORDS=(mil-palettize pal); COMP_CWORD=1; $({function}); "
        'echo "${COMPREPLY[@]}"'
    )
    told = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["palettize"]


def test_completion_without_shtab(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    code, _, err = run("completion", "bash")
    assert code == 2
    assert "pip install 'mil-palettize[completion]'" in err
