"""A run over its own source that dies at a file operation: one complete package is there, and a rerun works."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from packages import constants, differences
from replacing_runs import acting, names

from mil_palettize import OpPalettizerConfig, OptimizationConfig, Report, inspect_package, palettize_package
from mil_palettize.package.replacement import previous_path

FIXTURE = "shared_ios16.mlpackage"


def palettize(package: Path) -> Report:
    config = OptimizationConfig(global_config=OpPalettizerConfig(nbits=4))
    return palettize_package(package, package, config, overwrite=True, verify=True, workers=1)


def palettes(package: Path) -> int:
    return sum(op.type == "constexpr_lut_to_dense" for op, _ in constants(package).values())


def die_at(operation: int, package: Path) -> None:
    """Palettize in a child process that ends, without cleaning up, in place of a file operation."""
    child = os.fork()
    if child == 0:
        try:
            with acting(operation, lambda: os._exit(9)):
                palettize(package)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, fixtures: Path) -> tuple[Path, list[str]]:
    """The package as a whole run leaves it, and the run's file operations."""
    package = tmp_path_factory.mktemp("whole") / FIXTURE
    shutil.copytree(fixtures / FIXTURE, package)
    with acting(10**9, lambda: None) as operations:
        palettize(package)
    return package, operations


def test_one_complete_package_after_every_kind_of_operation(
    uninterrupted: tuple[Path, list[str]], fixtures: Path, tmp_path: Path
) -> None:
    whole, operations = uninterrupted
    renames = [i for i, operation in enumerate(operations) if operation.startswith("rename")]
    assert len(renames) == 3
    # All from the last sync before the swap on, and every fourth of what builds the new package.
    chosen = sorted({*range(0, renames[0], 4), *range(renames[0] - 1, len(operations), 2), *renames})
    swapped = []
    for operation in chosen:
        package = tmp_path / str(operation) / FIXTURE
        shutil.copytree(fixtures / FIXTURE, package)
        die_at(operation, package)
        complete = package if package.exists() else previous_path(package)
        kept = palettes(complete) == 0
        assert differences(complete, fixtures / FIXTURE if kept else whole) == [], operations[operation]
        assert kept == (operation <= renames[1])
        assert inspect_package(complete).constants
        report = palettize(package)
        assert names(package.parent) == [FIXTURE], operations[operation]
        assert differences(package, whole) == []
        assert len(report.palettized) == (3 if kept else 0)
        assert any("interrupted run left" in note or "interrupted after its end" in note for note in report.notes) == (
            operation > 0
        )
        swapped.append(not kept)
    assert True in swapped
    assert False in swapped
