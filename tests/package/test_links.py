"""Packages of the Hugging Face cache, other links, and pointers of git-lfs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from packages import differences

from mil_palettize import PackageError, inspect_package
from mil_palettize.cli.main import main
from mil_palettize.package.links import following_links
from mil_palettize.package.mlpackage import Package

FILES = ("Manifest.json", "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin")
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 33088\n"


@pytest.fixture
def package(tmp_path: Path, fixtures: Path) -> Path:
    return Path(shutil.copytree(fixtures / "conv_fp16_ios16.mlpackage", tmp_path / "in.mlpackage"))


@pytest.fixture
def cached(tmp_path: Path, package: Path) -> Path:
    """As ``huggingface_hub`` keeps it: files by their hashes, and a tree of links to them."""
    cache = tmp_path / "hub" / "models--someone--model"
    snapshot = cache / "snapshots" / "0123abc" / "model.mlpackage"
    (cache / "blobs").mkdir(parents=True)
    for name in FILES:
        data = (package / name).read_bytes()
        blob = cache / "blobs" / hashlib.sha256(data).hexdigest()
        blob.write_bytes(data)
        link = snapshot / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def test_cache_is_read_through(cached: Path, package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, expected = tmp_path / "out.mlpackage", tmp_path / "expected.mlpackage"
    options = ["--nbits", "4", "--verify", "--json"]
    assert main(["palettize", str(package), str(expected), *options]) == 0
    assert json.loads(capsys.readouterr().out)["notes"] == []
    assert main(["palettize", str(cached), str(out), *options]) == 0
    (note,) = json.loads(capsys.readouterr().out)["notes"]
    blobs = os.path.realpath(cached.parents[2] / "blobs")
    assert note == f"3 files of model.mlpackage are links to files in {blobs}"
    assert differences(out, expected) == []
    assert not [path for path in out.rglob("*") if path.is_symlink()]
    assert inspect_package(cached).notes == [note]
    assert note in inspect_package(cached).to_text(300)
    # Its own blobs only, and the link itself.
    (cached / "other.bin").symlink_to(package / FILES[2])
    with pytest.raises(PackageError, match="neither a file nor a link to one inside"):
        Package.open(cached).files()


@pytest.mark.parametrize("name", FILES)
def test_other_links_only_if_asked(name: str, package: Path, tmp_path: Path) -> None:
    (package / name).rename(tmp_path / "outside")
    (package / name).symlink_to(tmp_path / "outside")
    with pytest.raises(PackageError, match="give --follow-links if in"):
        inspect_package(package)
    with following_links():
        assert inspect_package(package).notes == [f"1 file of in.mlpackage is a link to a file in {tmp_path}"]
    out = tmp_path / "out.mlpackage"
    assert main(["palettize", str(package), str(out), "--nbits", "4", "--quiet"]) == 3
    assert main(["palettize", str(package), str(out), "--nbits", "4", "--quiet", "--verify", "--follow-links"]) == 0
    assert not [path for path in out.rglob("*") if path.is_symlink()]


def test_links_of_folders_never(package: Path, tmp_path: Path) -> None:
    weights = package / "Data" / "com.apple.CoreML" / "weights"
    weights.rename(tmp_path / "weights")
    weights.symlink_to(tmp_path / "weights")
    with following_links(), pytest.raises(PackageError, match="link"):
        inspect_package(package)


@pytest.mark.parametrize("name", FILES)
def test_git_lfs_pointers(name: str, package: Path) -> None:
    (package / name).write_text(POINTER)
    with pytest.raises(PackageError, match=r"is a git-lfs pointer, not the file: run `git lfs pull`$") as error:
        inspect_package(package)
    assert str(package / name) in str(error.value)


def test_git_lfs_pointers_beside(package: Path, tmp_path: Path) -> None:
    """Of a file that only is copied."""
    (package / "LICENSE").write_text(POINTER)
    assert main(["palettize", str(package), str(tmp_path / "out.mlpackage"), "--nbits", "4"]) == 3
    assert not (tmp_path / "out.mlpackage").exists()
