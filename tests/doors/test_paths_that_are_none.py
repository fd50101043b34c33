"""What is given for a path and is none: one line, before anything else is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mil_palettize import (
    OpPalettizerConfig,
    OptimizationConfig,
    compare,
    decompress_package,
    import_recipe,
    palettize_package,
)
from mil_palettize.errors import ConfigError

CONFIG = OptimizationConfig(OpPalettizerConfig(nbits=4))


@pytest.fixture
def source(fixtures: Path) -> Path:
    return fixtures / "conv_fp16_ios18.mlpackage"


@pytest.mark.parametrize("wrong", [3, b"x.mlpackage", ["x.mlpackage"]], ids=["number", "bytes", "list"])
def test_one_line(source: Path, tmp_path: Path, wrong: Any) -> None:
    calls = {
        "destination": lambda: palettize_package(source, wrong, CONFIG),
        "destination ": lambda: decompress_package(source, wrong),
        "palettized": lambda: compare(source, wrong),
        "recipe": lambda: import_recipe(source, wrong, "x.npz"),
        "checkpoint": lambda: import_recipe(source, tmp_path / "r.json", wrong),
    }
    for name, call in calls.items():
        with pytest.raises(ConfigError) as raised:
            call()
        assert str(raised.value) == f"{name.strip()} is {wrong!r}; give a path, as text or pathlib.Path"


def test_of_a_module(source: Path) -> None:
    pytest.importorskip("torch")
    from mil_palettize.torch import MILModule

    with pytest.raises(ConfigError, match="destination is 3; give a path, as text or pathlib"):
        MILModule.from_package(source).save_package(3)  # type: ignore[arg-type]
