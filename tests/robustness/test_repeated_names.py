"""Constants that share a name: which one an entry, a report or a palette means must never be a guess."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from coremltools.proto import MIL_pb2 as MIL
from mil_messages import block, const, function, kind, op, program, reading, value, write_package
from packages import constants

from mil_palettize import (
    OpPalettizerConfig,
    OptimizationConfig,
    decompress_package,
    diff_packages,
    inspect_package,
    palettize_package,
)

CONFIG = OptimizationConfig(OpPalettizerConfig(nbits=4, weight_threshold=8))
RANDOM = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float16)


@pytest.mark.parametrize("options", [{}, {"verify": True}, {"select": "all", "target": "iOS18"}])
def test_a_name_declared_twice_in_one_block(options: dict[str, object], tmp_path: Path) -> None:
    """A palette in the place of all of them would be one more than was reported."""
    again = [const("w", RANDOM * (number + 2)) for number in range(3)]
    body = program(
        const("w", RANDOM), reading("w", "z"), *again, const("other", RANDOM), reading("other"), outputs=["y"]
    )
    package = write_package(tmp_path / "in.mlpackage", body)
    inspect_package(package)
    assert diff_packages(package, package).identical
    report = palettize_package(package, tmp_path / "out.mlpackage", CONFIG, workers=1, **options)
    assert [weight.name for weight in report.palettized] == ["other"]
    reasons = {weight.reason for weight in report.weights if weight.name == "w"}
    assert all("shares its name with another value" in reason for reason in reasons), reasons
    old, new = constants(package), constants(tmp_path / "out.mlpackage")
    assert all(np.array_equal(old[key][1](), new[key][1]()) for key in old if key[-1] == "w")


def test_palettes_of_one_name_are_not_made_anew(tmp_path: Path) -> None:
    lut = value(np.linspace(-1, 1, 16).astype(np.float16))
    packed = MIL.Value(type=kind((128,), "UINT8"))
    packed.immediateValue.tensor.bytes.values = bytes(range(128))
    attributes = {"indices": packed, "lut": lut, "shape": value([16, 16])}
    made = [op("constexpr_lut_to_dense", "w", attributes=attributes, shape=(16, 16)) for _ in range(2)]
    body = program(*made, reading("w"), opset="CoreML6", outputs=["y"])
    package = write_package(tmp_path / "in.mlpackage", body, specification=7)
    report = palettize_package(package, tmp_path / "out.mlpackage", CONFIG, redo=True, verify=True, workers=1)
    assert not report.palettized
    dense = decompress_package(package, tmp_path / "dense.mlpackage", workers=1, verify=True)
    assert [weight.status for weight in dense.weights] == ["decompressed"] * 2


def test_a_name_in_sibling_blocks_is_two_weights(tmp_path: Path) -> None:
    """Their blocks tell them apart."""
    branches = [block(const("w", RANDOM * n), reading("w", f"z{n}"), outputs=[f"z{n}"]) for n in (1, 2)]
    choice = op("cond", "y", {"pred": value(np.bool_(True))}, shape=(1, 16), blocks=branches)
    body = MIL.Program(
        version=1, functions={"main": function({"CoreML8": block(choice, outputs=["y"])}, (("x", (1, 16)),))}
    )
    package = write_package(tmp_path / "in.mlpackage", body)
    report = palettize_package(package, tmp_path / "out.mlpackage", CONFIG, verify=True, workers=1)
    assert [weight.name for weight in report.palettized] == ["w", "w"]
