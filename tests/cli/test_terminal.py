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
    assert [line.partition(": ")[2] for line in lines if line.endswith(" weights")][-1] == "5 of 5 weights"
    assert run(*PALETTIZE, "--overwrite")[2] == ""  # the log is as it was


def test_log_as_json(run: Run) -> None:
    code, out, err = run(*PALETTIZE, "--log-json", "--json")
    assert code == 0
    assert json.loads(out)["destination"] == "o.mlpackage"
    told = [json.loads(line) for line in err.splitlines()]
    assert told[0]["message"].endswith(IN)
    assert [one["progress"]["weights_done"] for one in told if "progress" in one] == [0, 1, 2, 3, 4, 5]
    assert {one["level"] for one in told} == {"info", "debug"}
    assert all(datetime.fromisoformat(one["time"]).tzinfo for one in told)


def test_errors_among_json(run: Run) -> None:
    """Of the command, and of a gate that fails; the message is that of the line without it."""
    pytest.importorskip("torch")
    run(*PALETTIZE)
    gate = ("compare", IN, "o.mlpackage", "--random", "1", "--fail-below", "90")
    for failing, expected in ((("inspect", "nowhere.mlpackage"), 3), (gate, 1)):
        code, _, err = run(*failing, "--log-json")
        told = [json.loads(line) for line in err.splitlines()]
        assert code == expected
        assert [one["level"] for one in told].count("error") == 1
        assert f"mil-palettize: error: {told[-1]['message']}\n" == run(*failing)[2]


CONFIG = "config_type: OpPalettizerConfig\nglobal_config: {nbits: 4}\n"
RUN = ("--random", "2")


@pytest.mark.parametrize(
    ("arguments", "counted"),
    [
        (("inspect", IN, "--sort", "snr"), ("palettes", 5)),
        (("diff", IN, IN), ("ops", 51)),
        (("preflight", IN), None),
        (("expand", IN, "--config", "c.yaml"), None),
        (("run", IN, *RUN), ("running", 2)),
        (("compare", IN, IN, *RUN), ("comparing", 2)),
        (("sensitivity", IN, "--calibrate", "2", "--out", "s.npz"), ("samples", 2)),
    ],
    ids=lambda given: given[0] if given else "",
)
def test_every_command_logs(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], counted: tuple[str, int] | None
) -> None:
    if arguments[0] in ("run", "compare", "sensitivity"):
        pytest.importorskip("torch")
    (tmp_path / "c.yaml").write_text(CONFIG)
    code, out, err = run(*arguments, "--log-json")
    told = [json.loads(line) for line in err.splitlines()]
    assert code == 0
    assert told[0]["message"].startswith("reading ")
    last = [{"name": counted[0], "done": counted[1], "total": counted[1]}] if counted else []
    assert [one["progress"] for one in told if "progress" in one][-1:] == last
    assert run(*arguments)[1:] == (out, "")  # without it, nothing else


def test_log_of_trials(run: Run) -> None:
    pytest.importorskip("torch")
    code, _, err = run("plan", IN, "--target-size", "24kB", "--group-size", "0", "-v")
    lines = [line[len("00:00:00 ") :] for line in err.splitlines()]
    assert code == 0
    tried = [re.sub(r"[\d,.]+ (bytes|dB)", r"… \1", line) for line in lines if " bytes" in line]
    assert tried == [
        "trying mixed bits, … bytes: 0 of 2",
        "trying uniform 4 bits, … bytes (mixed bits, … bytes, … dB): 1 of 2",
        "uniform 4 bits, … bytes, … dB: 2 of 2",
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
