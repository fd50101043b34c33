"""The command line: what is printed, exit codes, and that options and config files are obeyed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from command_line import IN, OUT, PALETTIZE, Run
from handmade import contents
from packages import differences, read_spec, spec_file

from mil_palettize.cli import main as cli
from mil_palettize.cli.running import EXIT_DIFFERENT
from mil_palettize.rewriting import dense_writer

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


def test_help(run: Run) -> None:
    code, out, err = run("palettize", "--help")
    assert (code, err) == (0, "")
    for option in ("--nbits", "--config", "--target", "--strict", "--verify", "--overwrite", "--report", "--dry-run"):
        assert option in out
    for option in ("--joint", "--redo", "--lut-dtype {int8,uint8}", "--per-channel-scale {op,fold}", "--cluster-dim N"):
        assert re.search(rf"^  {re.escape(option)}\s", out, re.MULTILINE), option
    told = " ".join(out.split())
    for code in {code for _, code in cli.EXIT_CODES} | {0, EXIT_DIFFERENT, cli.EXIT_INTERRUPTED}:
        assert re.search(rf"[:;,] {code}[ ,]", told)


def test_config_file_is_obeyed(run: Run, tmp_path: Path) -> None:
    text = "config_type: OpPalettizerConfig\nglobal_config: null\nop_type_configs:\n  linear:\n    nbits: 2\n"
    (tmp_path / "recipe.yaml").write_text(text)
    code, out, _ = run(*PALETTIZE, "--config", "recipe.yaml", "--json")
    weights = json.loads(out)["weights"]
    assert code == 0
    assert {w["name"]: w["nbits"] for w in weights if w["nbits"]} == {"hidden_weight": 2, "head_weight": 2}
    assert {w["reason"] for w in weights if not w["nbits"]} == {"left alone by global_config"}


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
