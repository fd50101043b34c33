"""Wrong requests on the command line: one line, an exit code, and that they cost nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command_line import IN, OUT, PALETTIZE, Run
from handmade import contents

WRONG = [
    (("palettise",), 2, "there is no command 'palettise', but palettize, plan, finetune, sensitivity, decompress, i"),
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
    ((*PALETTIZE, "--nbits", "4", "--recipe", "llm"), 2, "exclude each other; put them into a copy"),
    ((*PALETTIZE, "--config", "c.yaml", "--recipe", "llm"), 2, "not allowed with argument"),
    ((*PALETTIZE, "--recipe", "lllm"), 2, "--recipe: invalid choice: 'lllm'"),
    ((*PALETTIZE, "--recipe", "llm", "--target-size", "1MB"), 2, "a budget and --recipe exclude each other"),
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
    "\0": "the character U+0000 is not allowed",
    "[" * 1500: "recursion",
}  # fmt: skip


@pytest.mark.parametrize("text", YAML, ids=lambda value: None)
def test_wrong_config_files(run: Run, tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    code, out, err = run(*PALETTIZE, "--config", "recipe.yaml")
    assert (code, out) == (2, "")
    assert YAML[text] in err
    assert re.fullmatch(r"mil-palettize: error: config recipe\.yaml[ ,][^\n]+\n", err)
    assert not (tmp_path / OUT).exists()
