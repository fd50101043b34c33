"""Configs: coremltools' objects, and what two requests for one weight come to."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from coremltools.optimize import coreml as cto

from mil_palettize import (
    ConfigError,
    OpPalettizerConfig,
    OptimizationConfig,
    Report,
    palettize_package,
)
from mil_palettize.request.entries import load_config
from mil_palettize.request.normalised import normalise
from mil_palettize.request.palette_request import PaletteRequest

W = (64, 48)
Palettize = Callable[..., tuple[Path, Report]]


def bits(nbits: int, **options: object) -> OpPalettizerConfig:
    return OpPalettizerConfig(nbits=nbits, **options)


def lut_function(weight: object) -> object:
    return weight


# Objects


def test_configs_are_those_of_coremltools() -> None:
    assert issubclass(OpPalettizerConfig, cto.OpPalettizerConfig)
    assert issubclass(OptimizationConfig, cto.OptimizationConfig)
    theirs = cto.OptimizationConfig(
        cto.OpPalettizerConfig(nbits=4), {"conv": None}, {"w": cto.OpPalettizerConfig(nbits=2)}
    )
    ours = OptimizationConfig(OpPalettizerConfig(nbits=4), {"conv": None}, {"w": OpPalettizerConfig(nbits=2)})
    assert normalise(theirs) == normalise(ours)


def test_own_options_in_dicts_and_yaml(tmp_path: Path) -> None:
    entries = {
        "config_type": "OpPalettizerConfig",
        "global_config": {"nbits": 4, "enable_per_channel_scale": True, "scale": "fold"},
        "op_type_configs": {"conv": {"nbits": 2, "lut_dtype": "int8"}, "gather": None},
        "op_name_configs": {"w": {"mode": "unique"}},
    }
    before = copy.deepcopy(entries)
    requests = normalise(OptimizationConfig.from_dict(entries))
    assert entries == before
    assert (requests.global_request.scale, requests.by_type["conv"].lut_dtype) == ("fold", "int8")
    assert (requests.by_type["gather"], requests.by_name["w"].scale) == (None, None)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(entries))
    assert normalise(load_config(path)) == normalise(OptimizationConfig.from_yaml(str(path))) == requests


def test_coremltools_yaml_loads_in_both(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("config_type: OpPalettizerConfig\nglobal_config: {nbits: 3, cluster_dim: 2}\n")
    assert normalise(OptimizationConfig.from_yaml(str(path))) == normalise(cto.OptimizationConfig.from_yaml(str(path)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": "both"}, "scale"),
        ({"lut_dtype": "int4"}, "lut_dtype"),
        ({"lut_type": "int8"}, "lut_type"),
    ],
)
def test_wrong_own_options(options: dict, message: str, tmp_path: Path) -> None:
    if "lut_type" not in options:
        with pytest.raises(ValueError, match=message):
            OpPalettizerConfig(nbits=4, **options)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"config_type": "OpPalettizerConfig", "global_config": {"nbits": 4, **options}}))
    with pytest.raises(ConfigError, match=message) as error:
        load_config(path)
    assert "\n" not in str(error.value)


def test_normalised() -> None:
    config = OptimizationConfig(
        global_config=bits(6, mode="KMeans", granularity="per_grouped_channel", group_size=8, channel_axis=-1),
        op_type_configs={"conv": OpPalettizerConfig(mode="unique", weight_threshold=0), "gather": None},
        op_name_configs={"w": OpPalettizerConfig(mode="custom", lut_function=lut_function)},
    )
    requests = normalise(config)
    assert requests.global_request == PaletteRequest("kmeans", 6, "per_grouped_channel", 8, -1, 2048)
    assert requests.by_type == {"conv": PaletteRequest("unique", None, "per_tensor", 32, None, 0), "gather": None}
    assert requests.by_name == {
        "w": PaletteRequest("custom", None, "per_tensor", 32, None, 2048, lut_function=lut_function)
    }
    assert str(requests.global_request) == "kmeans 6 bits in groups of 8"
    assert str(requests.by_type["conv"]) == "unique"


def test_setters_give_the_same_config() -> None:
    config = OptimizationConfig()
    config.set_global(bits(4))
    config.set_op_type("conv", bits(2))
    config.set_op_name("w", None)
    assert normalise(config) == normalise(
        OptimizationConfig(global_config=bits(4), op_type_configs={"conv": bits(2)}, op_name_configs={"w": None})
    )


GROUPED = PaletteRequest("kmeans", 4, "per_grouped_channel", 32, None, 2048)


@pytest.mark.parametrize(
    ("options", "granularity"),
    [
        ({"channel_axis": None}, "per_tensor"),
        ({"granularity": None}, "per_tensor"),
        ({"group_size": None}, "per_tensor"),
        ({"granularity": None, "group_size": 32, "channel_axis": None}, "per_grouped_channel"),
        ({"granularity": "per_grouped_channel", "group_size": None}, "per_grouped_channel"),
    ],
)
def test_none_means_left_out_at_every_door(options: dict, granularity: str, tmp_path: Path) -> None:
    """In a class, in a dict and in a file, without a word on options that have no effect."""
    wanted = replace(GROUPED, granularity=granularity)
    entry = {"nbits": 4, **options}
    mapping = {"config_type": "OpPalettizerConfig", "global_config": entry}
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(mapping))
    built = normalise(OptimizationConfig(global_config=OpPalettizerConfig(**entry)))
    for requests in (built, normalise(OptimizationConfig.from_dict(mapping)), load_config(path)):
        assert requests.global_request == wanted
        assert requests.global_request.without_effect == ()


def after(config: OpPalettizerConfig, **attributes: object) -> OpPalettizerConfig:
    """``config`` with attributes that no validator of coremltools looks at."""
    for name, content in attributes.items():
        object.__setattr__(config, name, content)
    return config


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (after(bits(4), nbits=5), r"nbits is 5, allowed are \(1, 2, 3, 4, 6, 8\)"),
        (after(bits(4), nbits=None), "nbits is None, allowed are"),
        (bits(4, group_size=-1), "group_size is -1, it must be a whole number of channels, 0 for all of them"),
        (after(bits(4), group_size=2.5), "group_size is 2.5, it must be a whole number"),
        (after(bits(4), channel_axis="0"), "channel_axis is '0', it must be a whole number or None"),
        (bits(4, weight_threshold=None), "weight_threshold cannot be None, it is a number of elements"),
        (after(bits(4), weight_threshold=-1), "weight_threshold cannot be -1"),
        (bits(4, cluster_dim=0), "cluster_dim is 0, it is 1 for scalars, 2 or more for vectors"),
        (
            bits(4, mode="uniform", cluster_dim=2),
            r"Vector palettization \(cluster_dim > 1\) doesn't support UNIFORM mode",
        ),
        (after(bits(4, enable_per_channel_scale=True), scale="both"), r"scale is 'both', allowed are \('op', 'fold'\)"),
        (after(bits(4), lut_dtype="int4"), r"lut_dtype is 'int4', allowed are \('int8', 'uint8'\)"),
        (cto.OpLinearQuantizerConfig(), r"only accept OpPalettizerConfig type config. Got OpLinearQuantizerConfig"),
    ],
)
@pytest.mark.parametrize("level", ["global_config", "op_type_configs", "op_name_configs"])
def test_wrong_requests_name_their_entry(config: object, message: str, level: str) -> None:
    given = {level: config if level == "global_config" else {"conv": config}}
    with pytest.raises(ConfigError, match=message) as error:
        normalise(OptimizationConfig(**given))
    assert (level if level == "global_config" else f"{level}['conv']") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("config", [bits(4), {"nbits": 4}, None])
def test_wrong_config_objects(config: object, fixtures: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^config must be an OptimizationConfig, got "):
        palettize_package(fixtures / "extras_ios16.mlpackage", tmp_path / "never.mlpackage", config)
    assert not (tmp_path / "never.mlpackage").exists()


def test_op_selector_is_refused() -> None:
    """It exists for coremltools' older functions, which hide it in a config."""
    config = OptimizationConfig(global_config=bits(4), is_deprecated=True, op_selector=lambda op: True)
    with pytest.raises(
        ConfigError, match=r"^op_selector of ct.compression_utils is not supported; use op_type_configs"
    ):
        normalise(config)
