"""What ``inspect`` shows first: what goes in and out, totals, weights; which constants a name means; SNR."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from packages import read_spec

from mil_palettize import ConfigError, PlanError, Report, inspect_package

FIXTURES = sorted(path.stem for path in (Path(__file__).parents[2] / "fixtures").glob("*.mlpackage"))
Palettize = Callable[..., tuple[Path, Report]]


@pytest.mark.parametrize("name", FIXTURES)
def test_features_are_those_of_the_description(name: str, fixtures: Path) -> None:
    spec = read_spec(fixtures / f"{name}.mlpackage")
    described = spec.description.functions or [spec.description]
    expected = [
        (role, feature.name)
        for one in sorted(described, key=lambda d: getattr(d, "name", ""))
        for role, features in (("input", one.input), ("state", one.state), ("output", one.output))
        for feature in features
    ]
    found = inspect_package(fixtures / f"{name}.mlpackage").features
    assert [(feature.role, feature.name) for feature in found] == expected
    assert all(feature.dtype and "not described" not in feature.dtype for feature in found)


def test_what_to_give(fixtures: Path) -> None:
    def of(name: str) -> dict[str, tuple[str, str, str, str]]:
        found = inspect_package(fixtures / f"{name}.mlpackage").features
        return {f.name: (f.dtype, f.shape, f.values, f.given) for f in found if f.role != "output"}

    assert of("conv_fp16_ios18")["image"] == ("float32", "[1, 16, 12, 12]", "", "float32 array [1, 16, 12, 12]")
    tokens = of("embedding_linear_ios16")["ids"]
    assert (tokens[0], tokens[2]) == ("int32", "0..127")  # rows of the table
    image = of("image_classifier_ios15")["image"]
    assert image[0].startswith("image, ")
    assert image[2] == "0..255"
    assert image[3].startswith("uint8 array [height, width")
    assert any(".." in shape or "one of" in shape for _, shape, _, _ in of("flexible_ios16").values())
    assert [f.role for f in inspect_package(fixtures / "stateful_ios18.mlpackage").features].count("state") > 0


@pytest.mark.parametrize("name", FIXTURES)
def test_totals(name: str, fixtures: Path) -> None:
    inspection = inspect_package(fixtures / f"{name}.mlpackage")
    assert sum(count for count, _ in inspection.dtypes.values()) == len(inspection.constants)
    assert sum(nbytes for _, nbytes in inspection.dtypes.values()) == inspection.constant_nbytes
    assert not any(kind == "const" or kind.startswith("constexpr") for kind in inspection.op_counts)


def test_weights_take_a_line_each_and_the_rest_is_a_count(fixtures: Path) -> None:
    inspection = inspect_package(fixtures / "conv_fp16_ios18.mlpackage")
    weights = [c for c in inspection.constants if c.name.endswith("_weight")]
    assert {c.name for c in inspection.listed()} == {c.name for c in weights}
    text = inspection.to_text(90)
    assert text.index("float32 array [1, 16, 12, 12]") < text.index("conv 3") < text.index("\nstem_weight")
    lines = [line for line in text.splitlines() if line.split(" ")[0] in {c.name for c in weights}]
    assert len(lines) == len(weights)
    assert [line.split()[0] for line in lines] == [c.name for c in sorted(weights, key=lambda c: -c.nbytes)]
    assert f"{len(inspection.constants) - len(weights)} other constants, not weights" in text
    assert all(c.name in inspection.to_text(200, every=True) for c in inspection.constants)
    assert [c.name for c in inspection.listed("name")] == sorted(c.name for c in weights)


def test_snr_is_that_of_a_run(fixtures: Path, palettize: Palettize) -> None:
    for name in ("conv_fp32_ios16", "conv_fp16_ios15"):  # ios15 moves up when it is palettized
        source = fixtures / f"{name}.mlpackage"
        inspection = inspect_package(source, snr=True)
        _, report = palettize(source, nbits=4)
        expected = {w.name: w.snr_db for w in report.palettized}
        assert {c.name: c.snr_db for c in inspection.constants if c.snr_db is not None} == pytest.approx(expected)
        listed = [c.snr_db for c in inspection.listed("snr") if c.snr_db is not None]
        assert listed == sorted(expected.values())
        assert "4 bits, dB" in inspection.to_text()


def test_names_that_are_matched(fixtures: Path) -> None:
    source = fixtures / "conv_fp16_ios18.mlpackage"
    found = inspect_package(source, match=["*head*", "stem.weight"])
    matched = {c.name: c.matched for c in found.listed()}
    assert matched["stem_weight"] == ("stem.weight",)
    assert matched["head_weight"] == ("*head*",)
    assert "depthwise_weight" not in found.to_text()
    assert f"of {len(found.constants)}" in found.to_text()
    with pytest.raises(PlanError, match=r"match\['steem'\] means no constant in function main; did you mean .*'stem"):
        inspect_package(source, match=["steem"])
    with pytest.raises(ConfigError, match=r"match\['re:\('\] is no regular expression"):
        inspect_package(source, match=["re:("])
    with pytest.raises(PlanError, match=r"match\['\*heed\*'\] matches nothing in function main; there are 'head_wei"):
        inspect_package(source, match=["*heed*"])
    with pytest.raises(ConfigError, match=r"match\['re:\('\] is no regular expression"):
        inspect_package(source, match=["re:("])
    for wrong in ([3], None, "head"):
        with pytest.raises(ConfigError, match=r"match is .*; give a list of names, such as"):
            inspect_package(source, match=wrong)
