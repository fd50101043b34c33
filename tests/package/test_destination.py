"""Where packages may be written: what is refused, what is kept, and what the written folder is like."""

from __future__ import annotations

import os
import re
import shutil
import stat
from pathlib import Path

import pytest
from handmade import contents, write_package
from replacing_runs import acting, blob_of, names, package_with, raise_killed, rewrite

from mil_palettize.errors import PackageError
from mil_palettize.package import disk
from mil_palettize.package.replacement import check_destination, previous_path, recover, replacing


def test_staging_is_an_empty_folder_beside(tmp_path: Path) -> None:
    with replacing(tmp_path / "m.mlpackage", overwrite=False, needed_bytes=0) as staging:
        assert staging.parent == tmp_path
        assert re.fullmatch(r"\.m\.mlpackage\.partial-[0-9a-f]{8}", staging.name)
        assert list(staging.iterdir()) == []
        write_package(staging / "x")
        shutil.move(staging / "x" / "Manifest.json", staging)
    assert names(tmp_path) == ["m.mlpackage"]


def test_modes_are_those_of_the_umask(tmp_path: Path) -> None:
    folder = package_with(tmp_path / "in.mlpackage", b"old")
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o700)
    old = os.umask(0o027)
    try:
        rewrite(folder, tmp_path / "out.mlpackage", b"new")
    finally:
        os.umask(old)
    made = [tmp_path / "out.mlpackage", *(tmp_path / "out.mlpackage").rglob("*")]
    assert {stat.S_IMODE(p.stat().st_mode) for p in made if p.is_dir()} == {0o750}
    assert {stat.S_IMODE(p.stat().st_mode) for p in made if p.is_file()} == {0o640}


def test_read_only_old_package_is_replaced(tmp_path: Path) -> None:
    folder = package_with(tmp_path / "in.mlpackage", b"old")
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555)
    rewrite(folder, folder, b"new")
    assert names(tmp_path) == ["in.mlpackage"]
    assert blob_of(folder) == b"new"


def test_links_in_the_old_package_are_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years")
    folder = package_with(tmp_path / "in.mlpackage", b"old")
    package_with(tmp_path / "out.mlpackage", b"older")
    (tmp_path / "out.mlpackage" / "link").symlink_to(precious)
    (tmp_path / "out.mlpackage" / "file").symlink_to(precious / "thesis.txt")
    rewrite(folder, tmp_path / "out.mlpackage", b"new")
    assert (precious / "thesis.txt").read_text() == "years"
    assert blob_of(tmp_path / "out.mlpackage") == b"new"


def test_link_to_a_package_stays(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    package_with(tmp_path / "real" / "m.mlpackage", b"old")
    link = tmp_path / "link.mlpackage"
    link.symlink_to("real/m.mlpackage")
    rewrite(link, link, b"new")
    assert link.is_symlink()
    assert blob_of(tmp_path / "real" / "m.mlpackage") == b"new"
    assert names(tmp_path / "real") == ["m.mlpackage"]
    assert names(tmp_path) == ["link.mlpackage", "real"]
    (tmp_path / "real" / "m.mlpackage").rename(previous_path(tmp_path / "real" / "m.mlpackage"))
    assert "restored" in (recover(link) or "")
    assert blob_of(link) == b"new"


def refusal(source: Path, destination: Path, overwrite: bool) -> str:
    """The line of :func:`check_destination`; :func:`replacing` must refuse too, having changed nothing."""
    with pytest.raises(PackageError) as caught:
        check_destination(source, destination, overwrite)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_destinations_that_are_refused(tmp_path: Path) -> None:
    source = package_with(tmp_path / "in.mlpackage", b"old")
    other = package_with(tmp_path / "other.mlpackage", b"other")
    documents = tmp_path / "Documents.mlpackage"
    documents.mkdir()
    (documents / "thesis.txt").write_text("years")
    (tmp_path / "file.mlpackage").write_text("a file")
    (tmp_path / "link.mlpackage").symlink_to(documents)
    cases = [
        (other, False, "--overwrite"),
        (source, False, "--overwrite"),
        (tmp_path / "out", True, "does not end in .mlpackage"),
        (tmp_path / "out.mlmodel", True, "does not end in .mlpackage"),
        (tmp_path / ".mlpackage", True, "does not end in .mlpackage"),
        (tmp_path / "no" / "out.mlpackage", True, "does not exist; make it first"),
        (tmp_path / "file.mlpackage" / "out.mlpackage", True, "file.mlpackage is not a folder; choose another place"),
        (tmp_path / "file.mlpackage" / "no" / "out.mlpackage", True, "file.mlpackage is not a folder; choose another"),
        (documents, True, "is never overwritten"),
        (tmp_path / "link.mlpackage", True, "is never overwritten"),
        (tmp_path / "file.mlpackage", True, "is never overwritten"),
    ]
    before = {name: contents(tmp_path / name) for name in names(tmp_path)}
    for destination, overwrite, said in cases:
        assert said in refusal(source, destination, overwrite)
        with (
            acting(0, raise_killed),
            pytest.raises(PackageError, match=re.escape(said)),
            replacing(destination, overwrite=overwrite, needed_bytes=0),
        ):
            pass
    assert {name: contents(tmp_path / name) for name in names(tmp_path)} == before


def test_source_and_destination_inside_one_another(tmp_path: Path) -> None:
    source = package_with(tmp_path / "in.mlpackage", b"old")
    (tmp_path / "alias.mlpackage").symlink_to(source)
    for path in (source, tmp_path / "alias.mlpackage"):
        assert "is inside the package" in refusal(source, path / "out.mlpackage", True)
        assert "is inside the package" in refusal(source, path / "Data" / "out.mlpackage", False)
    inner = package_with(source / "Data" / "inner.mlpackage", b"inner")
    assert "would be replaced" in refusal(inner, source, True)
    check_destination(source, source, True)
    check_destination(source, tmp_path / "alias.mlpackage", True)
    check_destination(source, tmp_path / "in.mlpackage.mlpackage", False)


def test_folder_without_write_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = package_with(tmp_path / "in.mlpackage", b"old")
    # Tests may run as root, who may write anywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "no permission to write into" in refusal(source, tmp_path / "out.mlpackage", False)


def test_too_little_space_says_both_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=12_300_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with (
        pytest.raises(PackageError, match=r"600 MB are needed in .*, 12\.3 MB are free"),
        replacing(tmp_path / "m.mlpackage", overwrite=False, needed_bytes=600_000_000),
    ):
        pass
    assert names(tmp_path) == []


def test_destination_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    source = package_with(tmp_path / "in.mlpackage", b"old")
    out = tmp_path / "out.mlpackage"

    def run() -> None:
        with replacing(out, overwrite=False, needed_bytes=0) as staging:
            shutil.copytree(source, staging, dirs_exist_ok=True)
            package_with(out, b"someone else's")

    with pytest.raises(PackageError, match="--overwrite"):
        run()
    assert blob_of(out) == b"someone else's"
    assert names(tmp_path) == ["in.mlpackage", "out.mlpackage"]


def test_old_package_that_cannot_be_removed(tmp_path: Path) -> None:
    source = package_with(tmp_path / "in.mlpackage", b"old")

    def refuse(operation: str, path: Path) -> None:
        if operation == "remove":
            raise PackageError("cannot remove it: Operation not permitted")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk, "announce", refuse)
        with pytest.raises(PackageError, match=r"in\.mlpackage is complete; cannot remove .* by hand"):
            rewrite(source, source, b"new")
    assert blob_of(source) == b"new"
    assert "partial" in (recover(source) or "")
    assert names(tmp_path) == ["in.mlpackage"]


def test_copying_a_file(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(9 << 20))
    disk.copy_file(source, tmp_path / "new" / "folders" / "copy")
    assert (tmp_path / "new" / "folders" / "copy").read_bytes() == source.read_bytes()
    with pytest.raises(PackageError, match="File exists"):
        disk.copy_file(source, tmp_path / "new" / "folders" / "copy")
    with pytest.raises(PackageError, match=f"cannot read {tmp_path}/missing: No such file"):
        disk.copy_file(tmp_path / "missing", tmp_path / "copy")
