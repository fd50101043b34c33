"""What goes wrong beside a package: once it stands in place, and in files it carries."""

from __future__ import annotations

import os
import shutil
import tracemalloc
from pathlib import Path

import pytest
from handmade import contents, write_package
from packages import differences

from mil_palettize import (
    OpPalettizerConfig,
    OptimizationConfig,
    PackageError,
    diff_packages,
    inspect_package,
    palettize_package,
)
from mil_palettize.package import disk
from mil_palettize.package.mlpackage import Package

CONFIG = OptimizationConfig(OpPalettizerConfig(nbits=4, weight_threshold=8))


def test_failure_after_the_new_package_is_in_place(
    fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "in.mlpackage"
    shutil.copytree(fixtures / "shared_ios16.mlpackage", package)
    palettize_package(package, tmp_path / "whole.mlpackage", CONFIG, workers=1)
    original = disk.sync_folder

    def sync_folder(path: Path) -> None:
        if path == tmp_path:
            raise PackageError(f"cannot sync the folder {path}: Input/output error")
        original(path)

    monkeypatch.setattr(disk, "sync_folder", sync_folder)
    with pytest.raises(PackageError, match=rf"^{package} is complete; cannot sync the folder .* the next run puts in"):
        palettize_package(package, package, CONFIG, overwrite=True, workers=1)
    assert differences(package, tmp_path / "whole.mlpackage") == []
    monkeypatch.undo()
    palettize_package(package, package, CONFIG, overwrite=True, workers=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mlpackage", "whole.mlpackage"]


def with_extra(fixtures: Path, package: Path, size: int) -> Path:
    shutil.copytree(fixtures / "extras_ios16.mlpackage", package)
    extra = package / "Data/com.apple.CoreML/extra.bin"
    extra.write_bytes(b"x")
    os.truncate(extra, size)
    return extra


def test_diff_streams_what_packages_merely_carry(fixtures: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        with_extra(fixtures, tmp_path / f"{name}.mlpackage", 200 << 20)  # sparse: nothing on the disk
    tracemalloc.start()
    assert diff_packages(tmp_path / "a.mlpackage", tmp_path / "b.mlpackage").identical
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20


def test_diff_names_a_file_that_cannot_be_read(fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = with_extra(fixtures, tmp_path / "a.mlpackage", 1)
    with_extra(fixtures, tmp_path / "b.mlpackage", 1)

    def refuse(one: Path, two: Path, shallow: bool) -> bool:
        raise PermissionError(13, "Permission denied", str(one))

    monkeypatch.setattr("filecmp.cmp", refuse)
    with pytest.raises(PackageError, match=r"^cannot read .*: Permission denied$"):
        diff_packages(tmp_path / "a.mlpackage", tmp_path / "b.mlpackage")
    assert extra.exists()


def test_keys_of_a_manifest_are_not_compared_with_each_other(tmp_path: Path) -> None:
    """Fifty thousand of them: their square would take minutes."""
    package = write_package(tmp_path / "in.mlpackage")
    keys = "".join(f'"{number}": 1, ' for number in range(50_000))
    text = (package / "Manifest.json").read_text()
    (package / "Manifest.json").write_text(text.replace("{", "{" + keys + '"last": 1, "last": 2, ', 1))
    with pytest.raises(PackageError, match="the key 'last' is there twice"):
        Package.open(package)


def test_redo_leaves_nothing(fixtures: Path, tmp_path: Path, temporary: Path) -> None:
    config = OptimizationConfig(OpPalettizerConfig(nbits=2, weight_threshold=8))
    palettize_package(fixtures / "palettized_ios16.mlpackage", tmp_path / "o.mlpackage", config, redo=True, workers=1)
    assert inspect_package(tmp_path / "o.mlpackage").constants
    assert list(temporary.iterdir()) == []
    assert contents(tmp_path / "o.mlpackage")
