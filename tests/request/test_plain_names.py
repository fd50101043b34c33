"""Configs with patterns and modules, expanded to names that coremltools knows too."""

from __future__ import annotations

from pathlib import Path

import coremltools as ct
import coremltools.optimize as cto
import pytest

from mil_palettize import OpPalettizerConfig, OptimizationConfig, expand_config, palettize_package
from mil_palettize.cli.main import main
from mil_palettize.errors import PlanError
from mil_palettize.reports.report import Report
from mil_palettize.request.normalised import normalise

PATTERNS = OptimizationConfig(
    global_config=OpPalettizerConfig(nbits=2),
    op_name_configs={
        "stem": OpPalettizerConfig(nbits=3),
        "h*": OpPalettizerConfig(nbits=6),
        "re:.*wise_w.*": None,
    },
)


def made(report: Report) -> dict[str, tuple[int | None, int | None]]:
    return {w.name: (w.nbits, w.group_size) for w in report.palettized}


def test_they_mean_the_same(fixtures: Path) -> None:
    source = fixtures / "conv_fp16_ios18.mlpackage"
    plain = expand_config(source, PATTERNS)
    assert set(plain.op_name_configs) == {"stem", "head_weight", "hidden_weight", "depthwise_weight"}
    expected = made(palettize_package(source, None, PATTERNS, dry_run=True))
    assert expected == {
        "stem_weight": (3, None), "up_weight": (2, None), "hidden_weight": (6, None), "head_weight": (6, None),
    }  # fmt: skip
    assert made(palettize_package(source, None, plain, dry_run=True)) == expected


@pytest.mark.parametrize("name", ["conv_fp16_ios18", "non_weights_ios18", "quantized_sparse_ios16", "loop_ios16"])
@pytest.mark.parametrize("threshold", [10, 2048])
def test_what_patterns_leave_alone_stays_so(fixtures: Path, name: str, threshold: int) -> None:
    """Constants below a pattern's own threshold, and those that it matches and that are no weights."""
    config = OptimizationConfig(
        global_config=OpPalettizerConfig(nbits=4, weight_threshold=10),
        op_name_configs={"*": OpPalettizerConfig(nbits=6, weight_threshold=threshold)},
    )
    source = fixtures / f"{name}.mlpackage"
    expected = made(palettize_package(source, None, config, dry_run=True))
    assert expected
    assert made(palettize_package(source, None, expand_config(source, config), dry_run=True)) == expected


def test_coremltools_reads_what_the_command_writes(fixtures: Path, tmp_path: Path) -> None:
    source = fixtures / "conv_fp16_ios18.mlpackage"
    (tmp_path / "patterns.yaml").write_text(
        "config_type: OpPalettizerConfig\nglobal_config: {nbits: 2}\nop_name_configs:\n"
        "  stem.weight: null\n  'h*': {nbits: 6}\n"
    )
    options = [str(source), "--config", str(tmp_path / "patterns.yaml"), "--out", str(tmp_path / "plain.yaml")]
    assert main(["expand", *options]) == 0
    theirs = cto.coreml.OptimizationConfig.from_yaml(str(tmp_path / "plain.yaml"))
    assert {k: c and c.nbits for k, c in theirs.op_name_configs.items()} == {
        "stem_weight": None, "head_weight": 6, "hidden_weight": 6,
    }  # fmt: skip
    model = cto.coreml.palettize_weights(ct.models.MLModel(str(source), skip_model_load=True), theirs)
    entries = {
        op.outputs[0].name: op.inputs["lut"].val.shape[-2]
        for op in model._mil_program.functions["main"].operations
        if op.op_type == "constexpr_lut_to_dense"
    }
    assert entries == {
        "depthwise_weight_palettized": 4, "up_weight_palettized": 4,
        "head_weight_palettized": 64, "hidden_weight_palettized": 64,
    }  # fmt: skip


def test_weights_that_functions_call_alike(fixtures: Path) -> None:
    source = fixtures / "multifunction_ios18.mlpackage"
    every = expand_config(source, OptimizationConfig(op_name_configs={"*": OpPalettizerConfig(nbits=4)}))
    assert all("/" not in name for name in every.op_name_configs)
    one = expand_config(source, OptimizationConfig(op_name_configs={"re:decode/.*": OpPalettizerConfig(nbits=4)}))
    assert one.op_name_configs
    assert all(name.startswith("decode/") for name in one.op_name_configs)


def test_options_stay(fixtures: Path) -> None:
    options = {"nbits": 4, "group_size": 4, "channel_axis": 0, "weight_threshold": 7, "cluster_dim": 2}
    scaled = {"enable_per_channel_scale": True, "scale": "fold", "lut_dtype": "int8"}
    entries = {"stem_weight": OpPalettizerConfig(**options), "head": OpPalettizerConfig(nbits=4, **scaled)}
    config = OptimizationConfig(
        op_name_configs={**entries, "*up*": OpPalettizerConfig(mode="unique", granularity=None)}
    )
    found = normalise(expand_config(fixtures / "conv_fp16_ios18.mlpackage", config)).by_name
    expected = normalise(config).by_name
    assert found == {"stem_weight": expected["stem_weight"], "head": expected["head"], "up_weight": expected["*up*"]}


def test_ambiguous_ones_are_refused(fixtures: Path) -> None:
    config = OptimizationConfig(op_name_configs={"weight": OpPalettizerConfig(nbits=4)})
    with pytest.raises(PlanError, match="may mean"):
        expand_config(fixtures / "conv_fp16_ios18.mlpackage", config)


def test_patterns_that_match_nothing_are_refused(fixtures: Path) -> None:
    config = OptimizationConfig(op_name_configs={"re:.*haed.*": OpPalettizerConfig(nbits=4)})
    with pytest.raises(PlanError, match=r"matches nothing in function main; there are 'head_weight'"):
        expand_config(fixtures / "conv_fp16_ios18.mlpackage", config)
