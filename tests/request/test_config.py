"""Configs: coremltools' objects and YAML, precedence, what two requests for one weight come to, names."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry
from coremltools.optimize import coreml as cto
from coremltools.proto import MIL_pb2 as MIL
from hypothesis import given, settings
from hypothesis import strategies as st
from mil_messages import const, decisions, op, planned, program, value

from mil_palettize import (
    ConfigError,
    OpPalettizerConfig,
    OptimizationConfig,
    PackageError,
    PlanError,
    Report,
    palettize_package,
)
from mil_palettize.request.entries import load_config
from mil_palettize.request.normalised import known_op_types, normalise
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


# YAML


FULL = """
config_type: OpPalettizerConfig
global_config: {mode: kmeans, nbits: 4, granularity: per_grouped_channel, group_size: 16, weight_threshold: 100}
op_type_configs:
  conv: {mode: uniform, nbits: 8}
  gather: null
op_name_configs:
  main/head: {mode: unique, channel_axis: 1}
  stem: null
"""


def written(folder: Path, text: str | bytes) -> Path:
    file = folder / "config.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def test_yaml_is_read_as_by_coremltools(tmp_path: Path) -> None:
    file = written(tmp_path, FULL)
    requests = normalise(load_config(file))
    assert requests == normalise(OptimizationConfig.from_yaml(str(file)))
    assert requests.global_request == PaletteRequest("kmeans", 4, "per_grouped_channel", 16, None, 100)
    assert requests.by_type["gather"] is None
    assert requests.by_type["conv"].mode == "uniform"
    assert requests.by_name["stem"] is None
    assert requests.by_name["main/head"].channel_axis == 1
    assert normalise(load_config(str(file))) == requests


def palettizer(text: str) -> str:
    return f"config_type: OpPalettizerConfig\n{text}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it must be a mapping with config_type and global_config, op_type_configs or op_name_configs"),
        ("- conv\n", "it must be a mapping with config_type"),
        ("a: [", "line 1, column 5: expected the node content, but found .* while parsing a flow node"),
        ("\tconv: 1", "found character '.t' that cannot start any token"),
        ("global_config: {nbits: 4}", "config_type must be provided with type of string"),
        ("config_type: 3", "config_type must be provided with type of string"),
        ("config_type: Nope\nglobal_config: {nbits: 4}", "unknown config_type 'Nope', use 'OpPalettizerConfig'"),
        (palettizer("global: {nbits: 4}"), r"Invalid key global \(line 2\)\. Supported keys are .*'global_config'"),
        (palettizer("globl_config: {nbits: 4}"), "did you mean 'global_config'"),
        (palettizer("global_config: 4"), r"global_config \(line 2\) must be a mapping of options or null, got 4"),
        (
            palettizer("op_type_configs: {conv: 4}"),
            r"op_type_configs\['conv'\] \(line 2\) must be a mapping",
        ),
        (palettizer("op_name_configs: [stem]"), "op_name_configs .* must be type of dict"),
        (
            palettizer("global_config:\n  nbits: 4\n  group_sise: 4"),
            r"global_config \(line 2\): unknown option 'group_sise' \(line 4\), allowed are .*mean 'group_size'",
        ),
        (palettizer("global_config: {nbits: 4, lut_function: f}"), "a lut_function can only be given in Python"),
        (palettizer("global_config: {nbits: 5}"), r"nbits is 5, allowed are \(1, 2, 3, 4, 6, 8\)"),
        (palettizer("global_config: {nbits: 4.0}"), r"nbits is 4.0, allowed are"),
        (palettizer("global_config: {nbits: true}"), r"nbits is True, allowed are"),
        (palettizer("global_config: {nbits: four}"), "'four'"),
        (palettizer("global_config: {mode: kmeans}"), "nbits is None, allowed are"),
        (palettizer("global_config: {mode: unique, nbits: 4}"), "nbits is 4, but mode 'unique' takes as many bits"),
        (palettizer("global_config: {mode: nice, nbits: 4}"), "mode is 'nice', allowed are .*'kmeans'"),
        (palettizer("global_config: {mode: custom}"), "needs a lut_function, which only the Python interface"),
        (palettizer("global_config: {nbits: 4, granularity: per_block}"), "granularity is 'per_block', allowed are"),
        (palettizer("global_config: {nbits: 4, weight_threshold: -1}"), "weight_threshold cannot be -1"),
        (
            palettizer("global_config: {nbits: 4, enable_per_channel_scale: 1}"),
            "enable_per_channel_scale is 1,",
        ),
        # Of a type and a constant that are called the same, and neither is looked past.
        (
            palettizer("op_type_configs: {conv: {nbits: 4, group_size: 1.5}}\nop_name_configs: {conv: {nbits: 4}}"),
            r"op_type_configs\['conv'\] \(line 2\): group_size is 1.5",
        ),
        (palettizer("global_config: {nbits: 4, nbits: 2}"), "'nbits' is given twice, in lines 2 and 2"),
    ],
)
def test_yaml_errors_are_one_line_naming_the_file(text: str, message: str, tmp_path: Path) -> None:
    file = written(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as error:
        load_config(file)
    assert str(error.value).startswith(f"config {file}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [1, 2\nb: 3\n", "line 2, column 2: expected ',' or ']', but got ':', while parsing a flow sequence that "),
        ("a: b: c\n", "line 1, column 5: mapping values are not allowed here"),
        (
            "\ta: 1\n",
            "line 1, column 1: found character '\\t' that cannot start any token, while scanning for the next ",
        ),
        ("a:\n  b: 1\n c: 2\n", "line 3, column 2: expected <block end>, but found '<block mapping start>', while "),
        ("a: *x\n", "line 1, column 4: found undefined alias 'x'"),
        ("a: 1\nb: \x01\n", "line 2, column 4: the character U+0001 is not allowed"),
        ("--- 1\n--- 2\n", "line 2, column 1: but found another document"),
    ],
)
def test_text_that_is_no_yaml_is_told_by_its_place(text: str, told: str, tmp_path: Path) -> None:
    file = written(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load_config(file)
    assert str(error.value).startswith(f"config {file}, {told}")
    assert ("indent with spaces" in str(error.value)) == ("\t" in text)


def test_yaml_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"absent.yaml cannot be read: No such file"):
        load_config(tmp_path / "absent.yaml")
    with pytest.raises(PackageError, match="cannot be read: Is a directory"):
        load_config(tmp_path)
    with pytest.raises(PackageError, match="cannot be read: 'utf-8' codec"):
        load_config(written(tmp_path, b"\xff\xfe\x00"))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-3, 9) | st.sampled_from(["kmeans", "conv", "OpPalettizerConfig"]),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "config_type",
                        "global_config",
                        "op_type_configs",
                        "op_name_configs",
                        "nbits",
                        "mode",
                        "group_size",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=8,
    )
)
def test_any_yaml_is_a_config_or_a_config_error(tmp_path_factory: pytest.TempPathFactory, content: object) -> None:
    file = written(tmp_path_factory.getbasetemp(), yaml.safe_dump(content))
    message = ""
    try:
        normalise(load_config(file))
    except ConfigError as error:
        message = str(error)
    assert "\n" not in message


# Entries that match nothing


def small_model() -> MIL.Program:
    return program(
        const("encoder_weight", shape=W),
        op("linear", "encoder_linear", {"x": "x", "weight": "encoder_weight"}, shape=(1, 64)),
        op("relu", "encoder_relu", {"x": "encoder_linear"}),
    )


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("encoder_weigth", "; did you mean 'encoder_weight'"),
        ("encoder_liner", "; did you mean 'encoder_linear'"),
        ("main/encoder_weigth", "; did you mean 'main/encoder_weight'"),
        ("maim/encoder_weight", "; did you mean 'main/encoder_weight'"),
        ("zzz", ""),
    ],
)
def test_unknown_name_is_a_warning_with_near_names(key: str, near: str) -> None:
    config = OptimizationConfig(global_config=bits(4), op_name_configs={key: bits(2)})
    plan = planned(small_model(), config)
    (note,) = plan.notes
    assert note.startswith(f"op_name_configs[{key!r}] matches nothing in function main{near}")
    assert ("did you mean" in note) == bool(near)
    with pytest.raises(PlanError, match=r"^strict: 1 request cannot be met as asked: op_name_configs"):
        planned(small_model(), config, strict=True)
    # Also where it asks for nothing: a name to be spared must not be misspelt either.
    with pytest.raises(PlanError, match="matches nothing"):
        planned(small_model(), OptimizationConfig(op_name_configs={key: None}), strict=True)


@pytest.mark.parametrize("key", ["encoder_relu", "main/encoder_relu"])
def test_name_of_an_op_without_weights(key: str) -> None:
    plan = planned(small_model(), OptimizationConfig(global_config=bits(4), op_name_configs={key: bits(2)}))
    assert plan.notes == [f"op_name_configs[{key!r}]: reads no constant above its weight_threshold"]
    quiet = planned(small_model(), OptimizationConfig(op_name_configs={key: None}), strict=True)
    assert quiet.notes == []


def test_overruled_names_did_match() -> None:
    """Each of these entries names the weight or what reads it; one decides, none is called unmatched."""
    made = program(
        const("w", shape=(48, 64)),
        op("cast", "half", {"x": "w", "dtype": value("fp16")}, shape=(48, 64)),
        op("linear", "l", {"x": "x", "weight": "half"}, shape=(1, 48)),
    )
    for keys in itertools.combinations(["main/w", "w", "main/l", "l", "main/half", "half"], 2):
        config = OptimizationConfig(op_name_configs=dict.fromkeys(keys, bits(4)))
        plan = planned(made, config, strict=True)
        assert plan.notes == [], keys
        assert decisions(plan)["w"].specification.nbits == 4


def test_op_type_that_the_model_lacks() -> None:
    plan = planned(small_model(), OptimizationConfig(op_type_configs={"conv": bits(4), "linear": None}), strict=True)
    assert plan.notes == ["op_type_configs['conv']: this model has no conv"]


@pytest.mark.parametrize(
    ("op_type", "near"), [("convolution", ""), ("Conv", "; did you mean 'conv'"), ("linaer", "; did")]
)
def test_unknown_op_type_is_an_error(op_type: str, near: str) -> None:
    for config in (bits(4), None):
        with pytest.raises(ConfigError, match=f"^op_type_configs.'{op_type}'.: no such op type{near}"):
            planned(small_model(), OptimizationConfig(op_type_configs={op_type: config}))


@pytest.mark.parametrize("op_type", ["const", "constexpr_lut_to_dense"])
def test_const_is_no_op_type(op_type: str) -> None:
    with pytest.raises(ConfigError, match="const ops cannot be set by the `set_op_type` function"):
        planned(small_model(), OptimizationConfig(op_type_configs={op_type: bits(4)}))


def test_op_types_of_the_model_are_known_even_if_coremltools_has_none() -> None:
    made = program(const("w", shape=W), op("future_op", "f", {"x": "w"}))
    plan = planned(made, OptimizationConfig(op_type_configs={"future_op": bits(4)}), strict=True)
    assert decisions(plan)["w"].specification is not None


def test_op_types_are_those_of_the_registry() -> None:
    assert {"conv", "linear", "gather", "lstm", "while_loop"} <= known_op_types()
    assert {name for name in SSAOpRegistry.core_ops if not name.startswith("_")} <= known_op_types()
