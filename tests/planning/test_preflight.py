"""The table of what devices are known to run, and what of a package it speaks of."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mil_palettize import OpPalettizerConfig, OptimizationConfig, Report, palettize_package, preflight_package
from mil_palettize.errors import ConfigError
from mil_palettize.planning.device_facts import ModelFacts, OpFacts, PaletteFacts, StateFacts
from mil_palettize.planning.device_rules import CONSEQUENCES, DEVICES, ENGINES, RULES, costs, forbidden, met

Palettize = Callable[..., tuple[Path, Report]]


def test_every_rule_has_a_source_and_says_how_sure_it_is() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.what
        assert rule.source
        assert rule.consequence in CONSEQUENCES
        assert set(rule.devices) <= set(DEVICES["any"])
        assert not re.search(r"\d ?m?s\b|\bmilliseconds?\b", rule.what), "times are never told"


FACTS = [
    (PaletteFacts(4), {"scalar-table"}),
    (PaletteFacts(3), {"scalar-table", "3-bits"}),
    (PaletteFacts(6), {"scalar-table", "6-bits"}),
    (PaletteFacts(4, group_size=4), {"scalar-table", "small-groups"}),
    (PaletteFacts(4, group_size=8), {"scalar-table", "groups-of-8"}),
    (PaletteFacts(4, group_size=32), {"scalar-table", "groups"}),
    (PaletteFacts(4, group_size=32, across=True), {"groups", "groups-across"}),
    (PaletteFacts(4, scaled=True), {"scale-after-table"}),
    (PaletteFacts(4, quantized_model=True), {"scalar-table", "quantized-activations"}),
    (PaletteFacts(4, cluster_dim=16), {"vectors"}),
    (PaletteFacts(6, cluster_dim=4), {"vectors", "6-bits"}),  # 256 values
    (PaletteFacts(8, cluster_dim=2), {"vectors", "large-tables-of-vectors"}),
    (PaletteFacts(2, cluster_dim=32), {"long-vectors"}),
    (PaletteFacts(4, cluster_dim=2, across=True), {"vectors-across"}),
    (PaletteFacts(4, cluster_dim=2, group_size=16), {"vectors-in-groups", "groups"}),
    (OpFacts("conv", "fp16", (2, 2), (1, 1)), set()),
    (OpFacts("conv", "fp16", (4, 12), (1, 1), kernel=(29, 13)), set()),
    (OpFacts("conv", "fp16", (5, 1), (1, 1)), {"odd-stride"}),
    (OpFacts("conv", "fp16", (2, 3), (1, 1), palettized=True), {"stride"}),
    (OpFacts("conv", "fp16", (2, 2), (1, 1), palettized=True), set()),
    (OpFacts("max_pool", "fp16", (5, 5)), set()),
    (OpFacts("conv", "fp16", kernel=(14,)), {"large-kernel"}),
    (OpFacts("conv", "fp16", kernel=(30, 3)), {"large-kernel"}),
    (OpFacts("conv", "fp16", kernel=(3, 3, 3)), {"3d-convolution"}),
    (OpFacts("conv", "fp16", (1, 1), (2, 2)), {"dilation"}),
    (OpFacts("conv", "fp16", (1, 1), (1, 1), groups=32, channels=32), {"depthwise"}),
    (OpFacts("conv", "fp16", (1, 1), (1, 1), groups=2, channels=32), set()),
    (OpFacts("linear", "fp32"), {"float32"}),
    (OpFacts("cast", "fp32"), set()),
    (OpFacts("lstm", "fp16"), {"recurrent"}),
    (OpFacts("while_loop", "int32"), {"while-loop"}),
    (OpFacts("gather", "fp16", table_rows=1 << 15), {"large-gather"}),
    (OpFacts("gather", "fp16", table_rows=1 << 10), set()),
    (StateFacts((1, 64)), set()),
    (StateFacts((64, 70)), {"state-size"}),
    (ModelFacts(10**9), set()),
    (ModelFacts(2 * 10**9), {"1-gigabyte"}),
    (ModelFacts((1 << 31) + 1), {"2-gigabytes"}),
    (ModelFacts(5, ranges=True), {"range-of-shapes"}),
]


@pytest.mark.parametrize(("facts", "expected"), FACTS)
def test_what_rules_speak_of(facts: object, expected: set[str]) -> None:
    assert {rule.name for rule in met(facts, "iphone-ane")} == expected  # type: ignore[arg-type]
    assert {rule.name for rule in met(facts, "mac-ane")} == expected - {"1-gigabyte"}  # type: ignore[arg-type]


def test_every_rule_of_an_engine_is_tried() -> None:
    tried = {name for _, names in FACTS for name in names}
    assert tried == {rule.name for rule in RULES if not set(ENGINES).isdisjoint(rule.devices)}


def test_plans_ask_the_same_table() -> None:
    groups_of_four = {"nbits": 4, "granularity": "per_grouped_channel", "group_size": 4}
    assert forbidden(groups_of_four, "any") is None
    for device in ("ane", *ENGINES):
        rule = forbidden(groups_of_four, device)
        assert rule is not None
        assert rule.name == "small-groups"
    assert [rule.name for rule in costs(groups_of_four, "any")] == ["small-groups"]
    assert forbidden({"nbits": 4, "enable_per_channel_scale": True, "scale": "fold"}, "ane") is None
    assert costs({"nbits": 4}, "gpu") == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"nbits": 4}, {"scalar-table"}),
        ({"nbits": 3}, {"scalar-table", "3-bits"}),
        ({"nbits": 4, "group_size": 8, "granularity": "per_grouped_channel"}, {"scalar-table", "groups-of-8"}),
        ({"nbits": 2, "cluster_dim": 2}, {"vectors"}),
        ({"nbits": 4, "enable_per_channel_scale": True}, {"scale-after-table"}),
        ({"nbits": 2, "cluster_dim": 2, "channel_axis": 1}, {"vectors", "vectors-across"}),
    ],
)
def test_palettes_of_a_package(
    options: dict[str, object], expected: set[str], fixtures: Path, palettize: Palettize
) -> None:
    """What is asked for is what is found in the written package, but for what is not made as asked."""
    written, report = palettize(fixtures / "conv_fp16_ios18.mlpackage", **options)
    made = {f"{w.function}/{w.name}" for w in report.palettized}
    speaking = [f for f in preflight_package(written, "ane").findings.found if set(f.names) & made]
    assert expected <= {finding.rule.name for finding in speaking}
    for finding in speaking:
        if finding.rule.name in expected - {"vectors-across", "vectors", "groups-of-8"}:  # these are of some
            assert set(finding.names) == made


def test_palettes_of_ios16(fixtures: Path, palettize: Palettize) -> None:
    written, report = palettize(fixtures / "conv_fp16_ios16.mlpackage", nbits=6)
    found = {f.rule.name: f.names for f in preflight_package(written, "mac-ane").findings.found}
    assert set(found["6-bits"]) == {f"main/{w.name}" for w in report.palettized} == set(found["scalar-table"])


@pytest.mark.parametrize(
    "options", [{}, {"target": "iOS18", "enable_per_channel_scale": True}], ids=["plain", "scaled"]
)
def test_strides_of_palettes(options: dict[str, object], fixtures: Path, palettize: Palettize) -> None:
    """A kernel of stride 4 is taken as it is, and not as a palette."""
    source = fixtures / "image_classifier_ios15.mlpackage"
    written, _ = palettize(source, nbits=4, weight_threshold=0, **options)
    named = [{f.rule.name for f in preflight_package(path, "ane").findings.found} for path in (source, written)]
    assert ["stride" in names for names in named] == [False, True]


def test_ops_of_a_package(fixtures: Path) -> None:
    def of(name: str, device: str = "ane") -> dict[str, tuple[str, ...]]:
        found = preflight_package(fixtures / f"{name}.mlpackage", device)  # type: ignore[arg-type]
        return {finding.rule.name: finding.kinds for finding in found.findings.found}

    assert of("recurrent_fp16_ios17")["recurrent"] == ("lstm", "gru")
    assert "while-loop" in of("loop_ios16")
    assert "while-loop" not in of("loop_ios16", "cpu")
    assert set(of("conv_fp32_ios18")["float32"]) >= {"conv", "linear"}
    assert "float32" not in of("conv_fp16_ios18")
    assert "range-of-shapes" in of("flexible_ios16")


def test_what_no_rule_speaks_of_is_unknown(fixtures: Path) -> None:
    found = preflight_package(fixtures / "conv_fp16_ios18.mlpackage", "mac-ane")
    assert found.findings.unknown_ops > 0
    assert "unknown: no rule speaks of" in found.to_text()
    assert "needs iOS18 or macOS15" in found.to_text(300)


def test_a_run_tells_what_the_engine_does_not_take(fixtures: Path) -> None:
    config = OptimizationConfig(OpPalettizerConfig(nbits=8, cluster_dim=2))
    report = palettize_package(fixtures / "conv_fp16_ios18.mlpackage", None, config, dry_run=True, target="iOS18")
    vectors = [w for w in report.palettized if w.cluster_dim == 2]
    (note,) = [note for note in report.notes if "Neural Engine" in note]
    assert note.startswith(f"falls back on the Neural Engine: {len(vectors)} weight")
    plain = palettize_package(fixtures / "conv_fp16_ios18.mlpackage", None, PLAIN, dry_run=True)
    assert not any("Neural Engine" in note for note in plain.notes)


PLAIN = OptimizationConfig(OpPalettizerConfig(nbits=4, group_size=8))


def test_other_devices_are_refused(fixtures: Path) -> None:
    with pytest.raises(ConfigError, match="device is 'npu', allowed are"):
        preflight_package(fixtures / "conv_fp16_ios18.mlpackage", "npu")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"device is \['ane'\], allowed are"):
        preflight_package(fixtures / "conv_fp16_ios18.mlpackage", ["ane"])  # type: ignore[arg-type]
