"""What goes wrong while a command runs: interrupts, faults, failed checks, a torch that is not there."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from command_line import IN, OUT, PALETTIZE, Run
from handmade import contents

from mil_palettize.cli import loading, output
from mil_palettize.cli.main import main
from mil_palettize.doors import palettize_run as api
from mil_palettize.rewriting import palettization


def test_interrupted_before_and_after_the_swap(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(tmp_path)

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(palettization, "complete", interrupt)
        code, out, err = run(*PALETTIZE, "--nbits", "4")
    assert (code, out, err) == (130, "", "mil-palettize: error: interrupted; nothing was written\n")
    assert contents(tmp_path) == before
    with monkeypatch.context() as patch:
        patch.setattr(output, "show", interrupt)
        code, out, err = run(*PALETTIZE, "--nbits", "4")
    assert (code, out, err) == (130, "", "mil-palettize: error: interrupted; out.mlpackage is complete\n")
    assert run("diff", IN, OUT)[0] == 1
    with monkeypatch.context() as patch:
        patch.setattr(palettization, "complete", interrupt)
        assert run(*PALETTIZE, "--nbits", "2", "--overwrite")[2].endswith("interrupted; nothing was written\n")


def test_interrupt_while_modules_are_imported_ends_the_process() -> None:
    """It cannot be swallowed by an ``except:`` of theirs."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(write, 2)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        signal.signal(signal.SIGINT, signal.default_int_handler)

        def import_module(name: str) -> None:
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except BaseException:
                os._exit(1)

        loading.import_module = import_module
        main(["inspect", IN])
        os._exit(2)
    os.close(write)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130
    with os.fdopen(read) as err:
        assert err.read() == "mil-palettize: error: interrupted; nothing was written\n"


def test_importing_leaves_the_handler_as_it_was(run: Run) -> None:
    for handler in (signal.default_int_handler, signal.SIG_IGN):
        previous = signal.signal(signal.SIGINT, handler)
        try:
            assert run("inspect", IN)[0] == 0
            assert signal.getsignal(signal.SIGINT) is handler
        finally:
            signal.signal(signal.SIGINT, previous)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RuntimeError("broken\nin two"), 70, "RuntimeError: broken in two (this is a bug; set MIL_PAL"),
        (
            MemoryError("Unable to allocate 9 GiB"),
            4,
            "not enough memory (Unable to allocate 9 GiB); try fewer",
        ),
        (OSError(5, "Input/output error", "x"), 3, "Input/output error: 'x'"),
    ],
)
def test_unexpected_errors_are_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, said: str
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(palettization, "complete", fail)
    got, out, err = run(*PALETTIZE, "--nbits", "4")
    assert (got, out) == (code, "")
    assert said in err
    assert err.count("\n") == 1
    monkeypatch.setenv("MIL_PALETTIZE_TRACEBACK", "1")
    assert "Traceback" in run(*PALETTIZE, "--nbits", "4")[2]


def test_failed_verification_has_its_exit_code(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verify = api.verify_package

    def tampered(source: Path, written: Path, *told: object) -> None:
        (written / "Manifest.json").write_bytes(b"{}")
        verify(source, written, *told)

    monkeypatch.setattr(api, "verify_package", tampered)
    code, out, err = run(*PALETTIZE, "--nbits", "4", "--verify")
    assert (code, out) == (5, "")
    assert err.count("\n") == 1
    assert not (tmp_path / OUT).exists()


@pytest.mark.parametrize(
    "command", [["run", "{}"], ["compare", "{}", "{}"], ["palettize", "{}", "out.mlpackage", "--nbits", "4", "--check"]]
)
def test_without_torch_commands_say_what_to_install(
    command: list[str],
    fixtures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in [n for n in sys.modules if n.startswith("mil_palettize.torch")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.chdir(tmp_path)
    assert main([part.format(fixtures / "conv_fp16_ios16.mlpackage") for part in command]) == 2
    assert capsys.readouterr().err == "mil-palettize: error: this needs torch: pip install 'mil-palettize[torch]'\n"
    assert not list(tmp_path.iterdir())
