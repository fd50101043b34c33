"""The same options mean the same at every door, and what has no effect is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from coremltools.optimize import coreml as cto
from mil_messages import const, op, planned, program

from mil_palettize import ConfigError, OpPalettizerConfig, OptimizationConfig, PlanError, palettize_package
from mil_palettize.cli.arguments import build_parser, requests_of
from mil_palettize.cli.main import COMMANDS
from mil_palettize.request.entries import load_config
from mil_palettize.request.normalised import Requests, normalise
from mil_palettize.request.palette_request import DEFAULTS, PaletteRequest

GROUPS = "per_grouped_channel"


def of_command(**options: object) -> Requests:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    return requests_of(build_parser(COMMANDS).parse_args(["palettize", "in", "out", *flags]))


def at_every_door(folder: Path, **options: object) -> list[PaletteRequest | None]:
    entries = {"config_type": "OpPalettizerConfig", "global_config": options}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(entries))
    asked = [
        OptimizationConfig(OpPalettizerConfig(**options)),
        OptimizationConfig.from_dict(entries),
        OptimizationConfig.from_yaml(str(folder / "recipe.yaml")),
        load_config(folder / "recipe.yaml"),
        of_command(**options),
    ]
    return [normalise(one).global_request for one in asked]


@pytest.mark.parametrize(
    ("options", "granularity", "group_size"),
    [
        ({"group_size": 8}, GROUPS, 8),
        ({"group_size": 32}, GROUPS, 32),
        ({"channel_axis": 1}, GROUPS, 32),
        ({"channel_axis": 1, "cluster_dim": 2}, "per_tensor", 32),
        ({"group_size": 8, "cluster_dim": 2}, GROUPS, 8),
        ({"granularity": GROUPS}, GROUPS, 32),
        ({}, "per_tensor", 32),
    ],
)
def test_groups_at_every_door(tmp_path: Path, options: dict, granularity: str, group_size: int) -> None:
    found = at_every_door(tmp_path, nbits=4, **options)
    assert [(one.granularity, one.group_size) for one in found] == [(granularity, group_size)] * len(found)
    assert found == [found[0]] * len(found)


def test_objects_keep_values_of_coremltools() -> None:
    """coremltools' own functions read them."""
    made = OpPalettizerConfig(nbits=4, group_size=8)
    assert (made.granularity, made.group_size) == (
        cto.OpPalettizerConfig("kmeans", 4, granularity=GROUPS).granularity,
        8,
    )
    theirs, ours = cto.OpPalettizerConfig(nbits=4), OpPalettizerConfig(nbits=4)
    assert {name: getattr(ours, name) for name in DEFAULTS if hasattr(theirs, name)} == {
        name: getattr(theirs, name) for name in DEFAULTS if hasattr(theirs, name)
    }
    assert OpPalettizerConfig("kmeans", 4, None, GROUPS, 16).group_size == 16  # in coremltools' order


WITHOUT_EFFECT = [
    (OpPalettizerConfig(nbits=4, scale="op"), "scale='op' has no effect without enable_per_channel_scale=True"),
    (OpPalettizerConfig(nbits=4, scale="fold"), "scale='fold' has no effect without enable_per_channel_scale=True"),
    (OpPalettizerConfig(nbits=4, granularity="per_tensor", group_size=8), "group_size=8 has no effect without gran"),
    (OpPalettizerConfig(nbits=4, granularity="per_tensor", channel_axis=1), "channel_axis=1 has no effect without"),
    (cto.OpPalettizerConfig(nbits=4, group_size=8), "group_size=8 has no effect without granularity="),
    (cto.OpPalettizerConfig(nbits=4, channel_axis=1), "channel_axis=1 has no effect without groups or vectors"),
]


@pytest.mark.parametrize(("config", "told"), WITHOUT_EFFECT)
@pytest.mark.parametrize("level", ["global_config", "op_type_configs", "op_name_configs"])
def test_what_has_no_effect_is_told(config: object, told: str, level: str) -> None:
    made = program(const("w", shape=(64, 48)), op("linear", "l", {"x": "x", "weight": "w"}, shape=(1, 64)))
    key = {"op_type_configs": "linear", "op_name_configs": "w"}.get(level)
    given = OptimizationConfig(**{level: config if key is None else {key: config}})
    (note,) = planned(made, given).notes
    assert note.startswith(f"{level if key is None else f'{level}[{key!r}]'}: {told}")
    with pytest.raises(PlanError, match=r"^strict: 1 request cannot be met as asked: .* has no effect"):
        planned(made, given, strict=True)


def test_in_files(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("config_type: OpPalettizerConfig\nglobal_config: {nbits: 4, scale: fold}\n")
    (told,) = load_config(tmp_path / "recipe.yaml").without_effect
    assert told.startswith("global_config: scale='fold' has no effect")


def test_per_tensor_with_a_group_size_is_a_contradiction_on_the_command_line() -> None:
    with pytest.raises(ConfigError, match="--group-size goes with --granularity per_grouped_channel"):
        of_command(nbits=4, granularity="per_tensor", group_size=8)


@pytest.mark.parametrize("key", ["lm_haed", "lm_head_weigth", "LM_HEAD.weight"])
def test_mistyped_names_have_near_names(key: str) -> None:
    made = program(
        const("lm_head_weight_to_fp16", shape=(64, 48)),
        op("linear", "l", {"x": "x", "weight": "lm_head_weight_to_fp16"}, shape=(1, 64)),
    )
    config = OptimizationConfig(OpPalettizerConfig(nbits=4), op_name_configs={key: OpPalettizerConfig(nbits=8)})
    (note,) = planned(made, config).notes
    assert "did you mean 'lm_head_weight_to_fp16'" in note


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("joint_compression", "joint_compression has no effect: no weight is sparse or quantized"),
        ("redo", "redo has no effect: no weight is a palette that another could replace"),
    ],
)
def test_keywords_without_effect(option: str, told: str, fixtures: Path) -> None:
    config, plain = OptimizationConfig(OpPalettizerConfig(nbits=4)), fixtures / "conv_fp16_ios18.mlpackage"
    assert told in palettize_package(plain, None, config, dry_run=True, **{option: True}).notes
    with pytest.raises(PlanError, match=f"^strict: 1 request cannot be met as asked: {told}"):
        palettize_package(plain, None, config, dry_run=True, strict=True, **{option: True})
    used = fixtures / ("quantized_sparse" if option == "joint_compression" else "palettized")
    report = palettize_package(f"{used}_ios16.mlpackage", None, config, dry_run=True, target="iOS18", **{option: True})
    assert told not in report.notes
