"""The command line: what is printed, exit codes, and that a wrong request costs nothing."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from handmade import contents
from packages import differences, read_spec, spec_file

from mil_palettize.cli import main as cli
from mil_palettize.cli import output
from mil_palettize.cli.main import main
from mil_palettize.doors import palettize_run as api
from mil_palettize.errors import ConfigError
from mil_palettize.rewriting import dense_writer, palettization

Run = Callable[..., tuple[int, str, str]]
COMMAND = (sys.executable, "-m", "mil_palettize")
IN, OUT = "in.mlpackage", "out.mlpackage"
CLI_ERROR = "mil-palettize: error: "


@pytest.fixture
def run(tmp_path: Path, fixtures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """``run("palettize", IN, OUT, …)`` in a folder with a package → (exit code, standard output, standard error)."""
    shutil.copytree(fixtures / "conv_fp16_ios16.mlpackage", tmp_path / IN)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        try:
            code = main(arguments)
        except SystemExit as stop:
            code = int(stop.code or 0)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(cli.__file__).resolve().parents[2]), "TERM": "xterm"}


# What is wrong with a request

PALETTIZE = ("palettize", IN, OUT)
WRONG = [
    (("palettise",), 2, "there is no command 'palettise', but palettize, sensitivity, decompress, inspect, diff, run"),
    (("palettize",), 2, "required: IN.mlpackage"),
    (("palettize", IN, "--nbits", "4"), 2, "OUT.mlpackage is missing; only --dry-run goes without it"),
    (PALETTIZE, 2, "say how many bits with --nbits N, or give --mode unique or --config FILE.yaml"),
    ((*PALETTIZE, "--mode", "kmeans"), 2, "say how many bits"),
    ((*PALETTIZE, "--nbits", "5"), 2, "--nbits: invalid choice: 5 (choose from 1, 2, 3, 4, 6, 8)"),
    ((*PALETTIZE, "--nbits", "4.0"), 2, "invalid int value: '4.0'"),
    ((*PALETTIZE, "--nbits", "-4"), 2, "invalid choice: -4"),
    ((*PALETTIZE, "--mode", "unique", "--nbits", "4"), 2, "leave --nbits out"),
    ((*PALETTIZE, "--mode", "custom"), 2, "invalid choice: 'custom'"),
    ((*PALETTIZE, "--nbits", "3"), 4, "weight 'main/stem_weight' (CoreML6): nbits=3 is supported since iOS18"),
    ((*PALETTIZE, "--nbits", "4", "--group-size", "16"), 4, "per_grouped_channel palettization is supported"),
    ((*PALETTIZE, "--nbits", "4", "--group-size", "-1"), 2, "group_size is -1"),
    ((*PALETTIZE, "--nbits", "4", "--granularity", "per_tensor", "--group-size", "4"), 2, "goes with --granularity"),
    ((*PALETTIZE, "--nbits", "4", "--weight-threshold", "-1"), 2, "weight_threshold cannot be -1"),
    ((*PALETTIZE, "--nbits", "4", "--target", "iOS99"), 2, "target is 'iOS99'; allowed are iOS15"),
    ((*PALETTIZE, "--nbits", "4", "--target", "iOS15"), 2, "target iOS15 can hold no palettes; use iOS16 or later"),
    ((*PALETTIZE, "--nbits", "4", "--workers", "0"), 2, "workers is 0, it must be a whole number from 1 up"),
    ((*PALETTIZE, "--nbits", "4", "--select", "none"), 2, "invalid choice: 'none'"),
    ((*PALETTIZE, "--mode", "unique", "--strict"), 4, "'main/stem_weight': has "),
    ((*PALETTIZE, "--nbits", "4", "--config", "c.yaml"), 2, "--config and --nbits exclude each other"),
    ((*PALETTIZE, "--mode", "kmeans", "--config", "c.yaml"), 2, "--config and --mode exclude each other"),
    ((*PALETTIZE, "--config", "c.yaml"), 3, "config c.yaml cannot be read: No such file or directory"),
    ((*PALETTIZE, "--config", IN), 3, f"config {IN} cannot be read: Is a directory"),
    ((*PALETTIZE, "extra", "--nbits", "4"), 2, "unrecognized arguments: extra"),
    (("palettize", "", OUT, "--nbits", "4"), 2, "argument IN.mlpackage: the path is empty"),
    (("palettize", IN, "", "--nbits", "4"), 2, "argument OUT.mlpackage: the path is empty"),
    (("palettize", "no.mlpackage", OUT, "--nbits", "4"), 3, "there is no "),
    (("palettize", ".", OUT, "--nbits", "4"), 3, "it has no Manifest.json; did you mean"),
    (("palettize", IN, "out", "--nbits", "4"), 3, "the destination out does not end in .mlpackage"),
    (("palettize", IN, IN, "--nbits", "4"), 3, "exists; use --overwrite"),
    (("palettize", IN, f"{IN}/out.mlpackage", "--nbits", "4"), 3, "is inside the package"),
    (("palettize", IN, "no/out.mlpackage", "--nbits", "4"), 3, "does not exist; make it first"),
    ((*PALETTIZE, "--nbits", "4", "--cluster-dim", "2"), 4, "The vector palettization is supported since iOS18"),
    ((*PALETTIZE, "--nbits", "4", "--cluster-dim", "0"), 2, "cluster_dim is 0"),
    ((*PALETTIZE, "--nbits", "4", "--lut-dtype", "int4"), 2, "--lut-dtype: invalid choice: 'int4'"),
    ((*PALETTIZE, "--nbits", "4", "--lut-dtype", "int8"), 4, "lut_dtype, a quantized look-up table, is only supported"),
    ((*PALETTIZE, "--lut-dtype", "int8"), 2, "say how many bits"),
    ((*PALETTIZE, "--lut-dtype", "int8", "--config", "c.yaml"), 2, "--config and --lut-dtype exclude each other"),
    ((*PALETTIZE, "--nbits", "4", "--per-channel-scale", "on"), 2, "--per-channel-scale: invalid choice: 'on'"),
    ((*PALETTIZE, "--nbits", "4", "--per-channel-scale"), 2, "--per-channel-scale: expected one argument"),
    ((*PALETTIZE, "--nbits", "4", "--per-channel-scale", "op"), 4, "per-channel-scale is only supported since iOS18"),
    ((*PALETTIZE, "--nbits", "4", "--per-channel-scale", "fold"), 4, "per_grouped_channel palettization is supported"),
    ((*PALETTIZE, "--per-channel-scale", "op", "--config", "c.yaml"), 2, "and --per-channel-scale exclude each other"),
    ((*PALETTIZE, "--nbits", "4", "--joint"), 4, "Joint compression is only supported since iOS18"),
    ((*PALETTIZE, "--nbits", "4", "--joint=yes"), 2, "--joint: ignored explicit argument 'yes'"),
    ((*PALETTIZE, "--joint", "--redo"), 2, "say how many bits"),
    ((*PALETTIZE, "--nbits", "4", "--redo", "now"), 2, "unrecognized arguments: now"),
    ((*PALETTIZE, "--nbits", "3", "--redo"), 4, "weight 'main/stem_weight' (CoreML6): nbits=3 is supported"),
    (("palettize", IN, IN, "--nbits", "4", "--redo"), 3, "exists; use --overwrite"),
    (("decompress", IN, OUT, "--redo"), 2, "unrecognized arguments: --redo"),
    (("decompress", IN, OUT, "--verifi"), 2, "unrecognized arguments: --verifi; did you mean '--verify'"),
    ((*PALETTIZE, "--nbits", "4", "--group-sice=8"), 2, "unrecognized arguments: --group-sice=8; did you mean"),
    (("decompress", IN), 2, "required: OUT.mlpackage"),
    (("decompress", IN, ""), 2, "argument OUT.mlpackage: the path is empty"),
    (("decompress", IN, IN), 3, "exists; use --overwrite"),
    (("decompress", IN, OUT, "--report", f"{IN}/r.json"), 2, "is inside the package"),
    (("decompress", IN, OUT, "--nbits", "4"), 2, "unrecognized arguments: --nbits 4"),
    (("inspect",), 2, "required: IN.mlpackage"),
    (("inspect", "no.mlpackage"), 3, "there is no "),
    (("inspect", IN, "--quiet"), 2, "unrecognized arguments: --quiet"),
    (("diff", IN), 2, "required: B.mlpackage"),
    (("diff", IN, "no.mlpackage"), 3, "there is no "),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "code", "said"), WRONG, ids=lambda value: None)
def test_wrong_requests(run: Run, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    before = contents(tmp_path)
    got, out, err = run(*arguments)
    assert (got, out) == (code, "")
    assert said in err
    assert re.fullmatch(r"mil-palettize( \w+)?: error: [^\n]+\n", err)
    assert contents(tmp_path) == before


def test_without_a_command_there_is_help(run: Run) -> None:
    code, out, err = run()
    assert (code, out) == (2, "")
    assert err.startswith("usage: mil-palettize")
    assert "palettize" in err
    assert "exit codes: 0 done" in err


YAML = {
    "": "it must be a mapping",
    "- a": "it must be a mapping",
    "global_config:\n  nbits: 4": "config_type must be provided",
    "config_type: OpPaletizerConfig\nglobal_config:\n  nbits: 4": "unknown config_type 'OpPaletizerConfig'",
    "config_type: OpPalettizerConfig\nglobal_config:\n  nbit: 4": "nbit",
    "config_type: OpPalettizerConfig\nglobl_config:\n  nbits: 4": "globl_config",
    "config_type: OpPalettizerConfig\nglobal_config:\n  nbits: 5": "global_config (line 2): nbits is 5, allowed are",
    "config_type: OpPalettizerConfig\nglobal_config: 4": "global_config (line 2) must be a mapping of options",
    "config_type: OpPalettizerConfig\nglobal_config:\n\tnbits: 4": "line 3, column 1",
    "config_type: OpPalettizerConfig\nop_type_configs: [conv]": "op_type_configs",
    "config_type: !!python/object/apply:os.abort []": "could not determine a constructor",
    "\0": "unacceptable character",
    "[" * 1500: "recursion",
}  # fmt: skip


@pytest.mark.parametrize("text", YAML, ids=lambda value: None)
def test_wrong_config_files(run: Run, tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    code, out, err = run(*PALETTIZE, "--config", "recipe.yaml")
    assert (code, out) == (2, "")
    assert YAML[text] in err
    assert re.fullmatch(r"mil-palettize: error: config recipe\.yaml [^\n]+\n", err)
    assert not (tmp_path / OUT).exists()


def test_config_file_is_obeyed(run: Run, tmp_path: Path) -> None:
    text = "config_type: OpPalettizerConfig\nglobal_config: null\nop_type_configs:\n  linear:\n    nbits: 2\n"
    (tmp_path / "recipe.yaml").write_text(text)
    code, out, _ = run(*PALETTIZE, "--config", "recipe.yaml", "--json")
    weights = json.loads(out)["weights"]
    assert code == 0
    assert {w["name"]: w["nbits"] for w in weights if w["nbits"]} == {"hidden_weight": 2, "head_weight": 2}
    assert {w["reason"] for w in weights if not w["nbits"]} == {"left alone by global_config"}


# What is printed


def test_table(run: Run, tmp_path: Path) -> None:
    code, out, err = run(*PALETTIZE, "--nbits", "4", "--verify")
    assert (code, err) == (0, "")
    assert out.startswith(f"{IN} → {OUT}\n47.8 kB → ")
    assert ", verified\n5 constants palettized, 0 left alone, 34 at or below the threshold\n" in out
    for name in ("up_weight", "stem_weight", "head_weight", "hidden_weight", "depthwise_weight"):
        assert re.search(rf"^{name} .* kmeans 4 bit .* 20\.\d$", out, re.MULTILINE)
    assert run(*PALETTIZE, "--nbits", "4")[0] == 3


def test_json_on_standard_output_is_the_report(run: Run, tmp_path: Path) -> None:
    code, out, err = run(*PALETTIZE, "--nbits", "4", "--json", "--report", "report.json")
    assert (code, err) == (0, "")
    assert out == (tmp_path / "report.json").read_text()
    report = json.loads(out, parse_constant=pytest.fail)
    assert report["destination"] == OUT
    assert len(report["weights"]) == 5
    for verb in (("inspect", IN), ("diff", IN, OUT)):
        code, out, _ = run(*verb, "--json")
        assert code == (verb[0] == "diff")
        json.loads(out, parse_constant=pytest.fail)


def test_quiet_says_nothing(run: Run, tmp_path: Path) -> None:
    assert run(*PALETTIZE, "--nbits", "4", "--quiet") == (0, "", "")
    assert (tmp_path / OUT).is_dir()
    assert run(*PALETTIZE, "--nbits", "4", "--quiet")[2].count("\n") == 1


def test_dry_run_writes_nothing(run: Run, tmp_path: Path) -> None:
    before = contents(tmp_path)
    code, out, _ = run("palettize", IN, "--nbits", "4", "--dry-run")
    assert code == 0
    assert f"{IN} → (dry run)\n" in out
    assert "5 constants would be palettized" in out
    assert contents(tmp_path) == before


def test_over_its_own_source(run: Run, tmp_path: Path) -> None:
    assert run(*PALETTIZE, "--nbits", "4")[0] == 0
    assert run("palettize", IN, IN, "--nbits", "4", "--overwrite")[0] == 0
    assert differences(tmp_path / IN, tmp_path / OUT) == []


def test_diff_exit_codes(run: Run) -> None:
    assert run("diff", IN, IN)[0] == 0
    assert run(*PALETTIZE, "--nbits", "4")[0] == 0
    code, out, _ = run("diff", IN, OUT)
    assert code == 1
    assert "4-bit palette" in out


def test_names_that_terminals_would_obey(run: Run, tmp_path: Path) -> None:
    """Names come from packages: control characters are shown, not sent."""
    spec = read_spec(tmp_path / IN)
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    for op in block.operations:
        for value in (*op.outputs, *(b for a in op.inputs.values() for b in a.arguments)):
            value.name = value.name.replace("stem_weight", "stem\x1b[2J\nweight\x07")
    spec_file(tmp_path / IN).write_bytes(spec.SerializeToString())
    shown = [run(*PALETTIZE, "--nbits", "4"), run("inspect", IN), run("diff", IN, OUT)]
    shown.append(run("palettize", IN, "new.mlpackage", "--nbits", "3"))
    for _, out, err in shown:
        assert r"\x1b[2J" in out + err
        assert "\x1b" not in out + err
        assert "\x07" not in out + err


@pytest.mark.parametrize("name", ["with space", "ünï cödé 模型 🤖", "-dash", "quote'\"", "b\udcff"])
def test_names_of_files(run: Run, tmp_path: Path, name: str) -> None:
    shutil.copytree(tmp_path / IN, tmp_path / f"{name}.mlpackage")
    source, destination, report = f"./{name}.mlpackage", f"./{name} new.mlpackage", f"./{name}.json"
    code, out, err = run("palettize", source, destination, "--nbits", "4", "--report", report)
    assert (code, err) == (0, "")
    assert (tmp_path / destination).is_dir()
    assert json.loads((tmp_path / report).read_text())["source"] == source
    code, out, _ = run("inspect", source)
    assert code == 0
    out.encode()


# The report's file


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (".", "is a folder"),
        ("no/report.json", "make it first"),
        (f"{IN}/Manifest.json", f"is inside the package {IN}"),
        (f"{IN}/Data/new.json", f"is inside the package {IN}"),
        (f"{OUT}/report.json", f"is inside the package {OUT}"),
        (OUT, f"is inside the package {OUT}"),
        ("link.json", f"is inside the package {IN}"),
        ("recipe.yaml", "is the file of --config"),
        ("", "the path is empty"),
    ],
)
def test_report_where_it_cannot_be(run: Run, tmp_path: Path, report: str, said: str) -> None:
    (tmp_path / "recipe.yaml").write_text("config_type: OpPalettizerConfig\nglobal_config:\n  nbits: 4\n")
    (tmp_path / "link.json").symlink_to(tmp_path / IN / "Manifest.json")
    before = contents(tmp_path)
    code, out, err = run(*PALETTIZE, "--config", "recipe.yaml", "--overwrite", "--report", report)
    assert (code, out) == (2, "")
    assert said in err
    assert contents(tmp_path) == before


def test_report_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Tests may run as root, who may write anywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ConfigError, match="no permission to write --report"):
        output.check_report_path(str(tmp_path / "r.json"), [])


def test_report_that_fails_leaves_the_package_and_says_so(run: Run, tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    code, out, err = run(*PALETTIZE, "--nbits", "4", "--report", "/dev/full")
    assert (code, out) == (3, "")
    assert "cannot write /dev/full: No space left on device; out.mlpackage is complete" in err
    assert run("inspect", OUT)[0] == 0


def test_report_replaces_a_file_at_once(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "report.json").write_text("old")
    (tmp_path / "link.json").symlink_to("report.json")

    def fail(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        code, _, err = run("palettize", IN, "--nbits", "4", "--dry-run", "--report", "report.json")
    assert code == 3
    assert err == "mil-palettize: error: cannot write report.json: No space left on device\n"
    assert (tmp_path / "report.json").read_text() == "old"
    assert run("palettize", IN, "--nbits", "4", "--dry-run", "--report", "link.json")[0] == 0
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "report.json").read_text())["dry_run"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [IN, "link.json", "report.json"]


# What goes wrong on the way


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


def test_decompress(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(*PALETTIZE, "--nbits", "4", "--quiet") == (0, "", "")
    code, out, _ = run("decompress", OUT, "dense.mlpackage", "--verify", "--json", "--report", "r.json")
    report = json.loads(out)
    assert (code, report["action"], report["verified"]) == (0, "decompressed", True)
    assert json.loads((tmp_path / "r.json").read_text()) == report
    assert {w["mode"] for w in report["weights"]} == {"4-bit palette"}
    assert "4-bit palette" not in run("inspect", "dense.mlpackage")[1]
    assert run("decompress", OUT, OUT, "--overwrite", "--quiet") == (0, "", "")
    assert run("diff", OUT, "dense.mlpackage")[0] == 0
    monkeypatch.setattr(dense_writer.DenseWriter, "_put_constants", lambda self: None)
    assert run(*PALETTIZE, "--nbits", "4", "--quiet", "--overwrite")[0] == 0
    before = contents(tmp_path)
    code, _, err = run("decompress", OUT, "bad.mlpackage", "--verify", "--quiet")
    assert (code, err.count("\n")) == (5, 1)
    assert "nothing was put in place: check the disk, then run again" in err
    assert contents(tmp_path) == before


def test_redo(run: Run, tmp_path: Path) -> None:
    assert run("palettize", IN, OUT, "--nbits", "8", "--quiet")[0] == 0
    code, out, _ = run("palettize", OUT, "left.mlpackage", "--nbits", "4")
    assert (code, "0 constants palettized, 5 left alone" in out) == (0, True)
    assert "redo (--redo) palettizes it again" in " ".join(out.split())
    before = contents(tmp_path)
    code, out, _ = run("palettize", OUT, "--nbits", "4", "--redo", "--dry-run")
    assert (code, "5 constants would be palettized" in out) == (0, True)
    assert contents(tmp_path) == before
    code, out, _ = run("palettize", OUT, OUT, "--nbits", "4", "--redo", "--overwrite", "--verify", "--json")
    weights = json.loads(out)["weights"]
    assert (code, {w["nbits"] for w in weights}) == (0, {4})
    assert {w["notes"][0].partition(",")[0] for w in weights} == {
        "in place of what was compressed already (8-bit palette)"
    }
    assert "4-bit palette" in run("inspect", OUT)[1]


def test_joint(run: Run, tmp_path: Path, fixtures: Path) -> None:
    source = str(fixtures / "quantized_sparse_ios16.mlpackage")
    arguments = ("palettize", source, OUT, "--nbits", "4", "--target", "iOS18", "--json", "--overwrite")
    told = {}
    for options in ((), ("--joint",)):
        code, out, _ = run(*arguments, *options)
        told[options] = {w["name"]: (w["joint"], w["status"]) for w in json.loads(out)["weights"]}
        assert code == 0
    names = "a_weight_quantized", "b_weight_sparsified"
    assert [told[()][name] for name in names] == [("", "skipped")] * 2
    assert [told[("--joint",)][name] for name in names] == [("scaled", "palettized"), ("sparse", "palettized")]


def test_scales_and_quantized_tables(run: Run, tmp_path: Path) -> None:
    arguments = (*PALETTIZE, "--nbits", "4", "--target", "iOS18", "--overwrite", "--json")
    told = {}
    for options in ((), ("--per-channel-scale", "op"), ("--per-channel-scale", "fold"), ("--lut-dtype", "int8")):
        code, out, _ = run(*arguments, *options)
        (weight,) = (w for w in json.loads(out)["weights"] if w["name"] == "stem_weight")
        told[options[-1:]] = weight["scale_axis"], weight["group_size"], weight["lut_dtype"]
        assert code == 0
    assert told[()] == (None, None, None)
    assert told[("op",)] == (0, None, None)
    assert told[("fold",)] == (None, 1, None)
    assert told[("int8",)] == (None, None, "int8")
    assert "int8 scaled entries" in run("inspect", OUT)[1]


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

        cli.import_module = import_module
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


def test_standard_output_that_is_closed_or_full(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as reader_is_gone, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", reader_is_gone)
        assert main(["inspect", IN]) == 0
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w") as full, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", full)
            assert main([*PALETTIZE, "--nbits", "4"]) == 3
        code, _, err = run("diff", IN, OUT)
        assert code == 1
        assert err == f"{CLI_ERROR}cannot write to standard output: No space left on device; {OUT} is complete\n"


# As a process of its own


def test_bar_and_table_at_a_terminal(run: Run, tmp_path: Path) -> None:
    """What a person sees: a bar of weights and bytes, then the table, and nothing of what coremltools prints."""
    reader, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [*COMMAND, "palettize", IN, OUT, "--nbits", "4"],
        cwd=tmp_path,
        env=environment(),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    shown = b""
    with suppress(OSError):  # what Linux says when the other end is closed
        while some := os.read(reader, 1 << 16):
            shown += some
    os.close(reader)
    assert process.wait() == 0
    bar, _, table = shown.decode().partition(f"{IN} → {OUT}")
    assert re.search(r"0/5 weights +0%\|.*\| 0\.00B/35\.4kB", bar)
    assert "\n" not in bar  # it is wiped, and nothing was printed before it
    assert not set(bar.rpartition("\r")[0].rpartition("\r")[2].strip())
    assert "5 constants palettized" in table
    assert all(len(line) <= 80 for line in table.splitlines())


def test_closed_streams(run: Run, tmp_path: Path) -> None:
    """Files of the package must not get the numbers of streams that others write to."""
    command = 'exec "$@" <&- >&- 2>&-'
    arguments = ["palettize", IN, OUT, "--nbits", "4"]
    process = subprocess.run(["sh", "-c", command, "sh", *COMMAND, *arguments], cwd=tmp_path, env=environment())
    assert process.returncode == 0
    assert run("palettize", IN, "new.mlpackage", "--nbits", "4", "--quiet")[0] == 0
    assert differences(tmp_path / OUT, tmp_path / "new.mlpackage") == []


def test_help(tmp_path: Path) -> None:
    shown = subprocess.run(
        [*COMMAND, "palettize", "--help"], capture_output=True, text=True, cwd=tmp_path, env=environment()
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    for option in ("--nbits", "--config", "--target", "--strict", "--verify", "--overwrite", "--report", "--dry-run"):
        assert option in shown.stdout
    for option in ("--joint", "--redo", "--lut-dtype {int8,uint8}", "--per-channel-scale {op,fold}", "--cluster-dim N"):
        assert re.search(rf"^  {re.escape(option)}\s", shown.stdout, re.MULTILINE), option
    told = " ".join(shown.stdout.split())
    for code in {code for _, code in cli.EXIT_CODES} | {0, cli.EXIT_DIFFERENT, cli.EXIT_INTERRUPTED}:
        assert re.search(rf"[:;,] {code}[ ,]", told)


@pytest.mark.parametrize(
    "command", [["run", "{}"], ["compare", "{}", "{}"], ["palettize", "{}", "out", "--nbits", "4", "--check"]]
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
