"""Configs in YAML: read as by coremltools, and what is wrong in them told in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mil_palettize import (
    ConfigError,
    OptimizationConfig,
    PackageError,
    Report,
)
from mil_palettize.request.entries import load_config
from mil_palettize.request.normalised import normalise
from mil_palettize.request.palette_request import PaletteRequest

W = (64, 48)
Palettize = Callable[..., tuple[Path, Report]]

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
