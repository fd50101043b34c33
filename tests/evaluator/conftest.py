"""A package of the project, and the same palettized, to compare."""

from __future__ import annotations

from pathlib import Path

import pytest
from compared_packages import config

from mil_palettize import palettize_package


@pytest.fixture
def original(fixtures: Path) -> Path:
    return fixtures / "conv_fp16_ios18.mlpackage"


@pytest.fixture
def palettized(original: Path, tmp_path: Path) -> Path:
    path = tmp_path / "palettized.mlpackage"
    palettize_package(original, path, config())
    return path
