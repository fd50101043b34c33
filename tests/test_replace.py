"""Promise 4: at every instant one complete package exists under a documented name, whatever is interrupted."""

from __future__ import annotations

import os
import re
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from handmade import contents, write_package

from mil_palettize.errors import PackageError
from mil_palettize.package import disk, replace
from mil_palettize.package.blob import BlobReader, BlobWriter
from mil_palettize.package.mlpackage import Package
from mil_palettize.package.replace import check_destination, previous_path, recover, replacing

WEIGHTS = Path("Data/com.apple.CoreML/weights/weight.bin")


class Killed(BaseException):
    """What the seam raises to interrupt a run."""


def package_with(folder: Path, data: bytes) -> Path:
    """A package whose one blob holds ``data``."""
    write_package(folder, model=b"the model")
    (folder / WEIGHTS).unlink()
    with BlobWriter(folder / WEIGHTS) as writer:
        writer.append(3, data)
    return folder


def rewrite(source: Path, destination: Path, data: bytes, overwrite: bool = True) -> None:
    """What a palettizing run does: carry files over, write a blob file, swap."""
    package = Package.open(source)
    with replacing(destination, overwrite=overwrite, needed_bytes=package.nbytes()) as staging:
        for file in package.files():
            if file != WEIGHTS:
                disk.copy_file(source / file, staging / file)
        disk.make_folders((staging / WEIGHTS).parent)
        with BlobReader(source / WEIGHTS) as reader, BlobWriter(staging / WEIGHTS) as writer:
            assert reader.all_records()
            writer.append(3, data)


def blob_of(folder: Path) -> bytes:
    """The blob of a complete package of :func:`package_with` or :func:`rewrite`; fails for any other."""
    package = Package.open(folder)
    files = {str(f) for f in package.files()}
    assert files == {"Manifest.json", "Data/com.apple.CoreML/model.mlmodel", str(WEIGHTS)}
    assert package.model_bytes() == b"the model"
    with BlobReader(folder / WEIGHTS) as reader:
        (record,) = reader.all_records()
        return bytes(reader.read(record))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def acting(after: int, act: Callable[[], None]) -> Iterator[list[str]]:
    """Call ``act`` in place of the change number ``after`` (from 0); yields the operations announced."""
    operations: list[str] = []
    original = disk.announce

    def announce(operation: str, path: Path) -> None:
        operations.append(f"{operation} {path}")
        if len(operations) == after + 1:
            act()

    disk.announce = announce
    try:
        yield operations
    finally:
        disk.announce = original


def die_after(changes: int, run: Callable[[], None]) -> bool:
    """Run in a child process that dies without any cleaning up; whether it died before its end."""
    child = os.fork()
    if child == 0:
        try:
            with acting(changes, lambda: os._exit(9)):
                run()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9), f"the child failed after {changes} changes"
    return status == 9


def raise_killed() -> None:
    raise Killed


def write_out(folder: Path) -> None:
    rewrite(folder / "in.mlpackage", folder / "out.mlpackage", b"new")


def write_in_place(folder: Path) -> None:
    rewrite(folder / "in.mlpackage", folder / "in.mlpackage", b"new")


def prepare(folder: Path, existing: bool) -> None:
    folder.mkdir()
    package_with(folder / "in.mlpackage", b"old")
    if existing:
        package_with(folder / "out.mlpackage", b"old")


RUNS = [
    pytest.param(write_out, "out.mlpackage", True, id="another package"),
    pytest.param(write_in_place, "in.mlpackage", False, id="itself"),
    pytest.param(write_out, "out.mlpackage", False, id="a new one"),
]


@pytest.mark.parametrize(("run", "name", "existing"), RUNS)
def test_killed_between_any_two_changes(tmp_path: Path, run: Callable, name: str, existing: bool) -> None:
    found_by_name: set[tuple[str, bytes]] = set()
    after_recovery: list[bytes | None] = []
    died = True
    while died:
        folder = tmp_path / str(len(after_recovery))
        prepare(folder, existing)
        had = (folder / name).exists()
        before = names(folder)
        died = die_after(len(after_recovery), lambda folder=folder: run(folder))
        destination = folder / name
        complete = [path for path in (destination, previous_path(destination)) if path.exists()]
        assert complete or not had
        found_by_name |= {(path.name, blob_of(path)) for path in complete}
        dirty = names(folder) not in (before, sorted({*before, name}))
        assert (recover(destination) is not None) == dirty
        assert recover(destination) is None
        assert names(folder) in (before, sorted({*before, name}))
        assert name == "in.mlpackage" or blob_of(folder / "in.mlpackage") == b"old"
        after_recovery.append(blob_of(destination) if destination.exists() else None)
    # The old package until a certain change, the new one from then on.
    old = b"old" if had else None
    turn = after_recovery.index(b"new")
    assert after_recovery == [old] * turn + [b"new"] * (len(after_recovery) - turn)
    assert turn > 20
    seen_with_old = {(name, b"old"), (f".{name}.previous", b"old")} if had else set()
    assert found_by_name == {(name, b"new")} | seen_with_old


@pytest.mark.parametrize("error", [Killed, lambda: OSError(28, "No space left on device")])
@pytest.mark.parametrize(("run", "name", "existing"), RUNS)
def test_interrupted_between_any_two_changes(
    tmp_path: Path, run: Callable, name: str, existing: bool, error: Callable[[], BaseException]
) -> None:
    """Here the run cleans up after itself."""

    def fail() -> None:
        raise error()

    outcomes: list[bytes | None] = []
    finished = False
    while not finished:
        folder = tmp_path / str(len(outcomes))
        prepare(folder, existing)
        had = (folder / name).exists()
        before = names(folder)
        try:
            with acting(len(outcomes), fail) as operations:
                run(folder)
            finished = True
        except (Killed, OSError, PackageError):
            pass
        destination = folder / name
        assert destination.exists() or not had
        outcomes.append(blob_of(destination) if destination.exists() else None)
        if outcomes[-1] != b"new":
            assert names(folder) == before, operations[-1]
        recover(destination)
        assert names(folder) in (before, sorted({*before, name}))
    turn = outcomes.index(b"new")
    assert outcomes == [b"old" if had else None] * turn + [b"new"] * (len(outcomes) - turn)


@pytest.mark.parametrize("stop", range(4))
def test_killed_while_recovering(tmp_path: Path, stop: int) -> None:
    """A recovery that dies is completed by the next one."""
    for changes in range(200):
        folder = tmp_path / str(changes)
        prepare(folder, True)
        if not die_after(changes, lambda folder=folder: write_out(folder)):
            break
        destination = folder / "out.mlpackage"
        die_after(stop, lambda destination=destination: recover(destination) and None)
        recover(destination)
        assert names(folder) == ["in.mlpackage", "out.mlpackage"]
        assert blob_of(destination) in (b"old", b"new")
    assert changes > 20


def test_everything_is_synced_before_it_is_renamed(tmp_path: Path) -> None:
    prepare(tmp_path / "d", True)
    with acting(10**9, raise_killed) as operations:
        write_out(tmp_path / "d")
    renames = [i for i, operation in enumerate(operations) if operation.startswith("rename")]
    assert len(renames) == 3
    synced = {o.split(" ", 1)[1] for o in operations[: renames[0]] if o.startswith("sync")}
    made = {o.split(" ", 1)[1] for o in operations[: renames[0]] if o.startswith(("create", "make"))}
    assert {o.removeprefix("the folder ") for o in synced} >= {o.removeprefix("the folder ") for o in made}
    assert f"sync the folder {tmp_path / 'd'}" in operations[renames[1] : renames[2]]
    assert not any(o.startswith("remove") for o in operations[: renames[2]])


def write_half(destination: Path, error: type[BaseException]) -> None:
    with replacing(destination, overwrite=True, needed_bytes=0) as staging:
        (staging / "deep" / "er").mkdir(parents=True)
        (staging / "deep" / "file").write_bytes(b"half")
        (staging / "link").symlink_to(destination.with_name("in.mlpackage"))
        raise error


def test_exception_in_the_block_leaves_no_trace(tmp_path: Path) -> None:
    for existing in (False, True):
        folder = tmp_path / str(existing)
        prepare(folder, existing)
        before = {name: contents(folder / name) for name in names(folder)}
        for error in (KeyboardInterrupt, SystemExit, RuntimeError):
            with pytest.raises(error):
                write_half(folder / "out.mlpackage", error)
        assert {name: contents(folder / name) for name in names(folder)} == before


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
        (tmp_path / "file.mlpackage" / "out.mlpackage", True, "does not exist; make it first"),
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
        pytest.raises(PackageError, match=r"600\.0 MB are needed in .*, 12\.3 MB are free"),
        replacing(tmp_path / "m.mlpackage", overwrite=False, needed_bytes=600_000_000),
    ):
        pass
    assert names(tmp_path) == []


def test_two_runs_the_last_one_wins(tmp_path: Path) -> None:
    source = package_with(tmp_path / "in.mlpackage", b"old")
    out = package_with(tmp_path / "out.mlpackage", b"older")
    with replacing(out, overwrite=True, needed_bytes=0) as first:
        shutil.copytree(source, first, dirs_exist_ok=True)
        rewrite(source, out, b"second")
        assert recover(out) is None
        assert first.is_dir()
        assert blob_of(out) == b"second"
    assert blob_of(out) == b"old"
    assert names(tmp_path) == ["in.mlpackage", "out.mlpackage"]


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


def test_many_runs_at_once(tmp_path: Path) -> None:
    source = package_with(tmp_path / "in.mlpackage", b"old")
    out = package_with(tmp_path / "out.mlpackage", b"older")
    errors: list[BaseException] = []
    incomplete: list[int] = []
    done = threading.Event()

    def run(number: int) -> None:
        try:
            for turn in range(5):
                rewrite(source, out, f"{number}.{turn}".encode())
        except BaseException as error:
            errors.append(error)

    def watch() -> None:
        while not done.is_set():
            # Looking takes time: a swap may fall between two looks, but not between all of these.
            if not any(path.exists() for path in [out, previous_path(out)] * 10):
                incomplete.append(1)

    watcher = threading.Thread(target=watch)
    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in (watcher, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    watcher.join()
    assert not errors
    assert not incomplete
    assert re.fullmatch(rb"[0-3]\.4", blob_of(out))
    assert names(tmp_path) == ["in.mlpackage", "out.mlpackage"]


def test_recover_says_what_it_did(tmp_path: Path) -> None:
    out = tmp_path / "out.mlpackage"
    assert recover(out) is None
    assert recover(tmp_path / "no" / "out.mlpackage") is None
    package_with(previous_path(out), b"old")
    note = recover(out)
    assert note == f"restored {out} from .out.mlpackage.previous, which an interrupted run left"
    package_with(previous_path(out), b"older")
    assert (recover(out) or "").startswith(f"removed {previous_path(out)}")
    assert blob_of(out) == b"old"
    (tmp_path / ".out.mlpackage.partial-0123abcd").mkdir()
    assert ".out.mlpackage.partial-0123abcd" in (recover(out) or "")
    assert names(tmp_path) == ["out.mlpackage"]


def test_recover_leaves_what_is_not_ours(tmp_path: Path) -> None:
    out = package_with(tmp_path / "out.mlpackage", b"old")
    kept = [
        ".out.mlpackage.partial-",
        ".out.mlpackage.partial-0123abcde",
        ".out.mlpackage.partial-0123ABCD",
        ".other.mlpackage.partial-0123abcd",
        "out.mlpackage.partial-0123abcd",
        ".outxmlpackage.partial-0123abcd",
    ]
    for name in kept:
        (tmp_path / name).mkdir()
    (tmp_path / ".out.mlpackage.partial-00000000").write_text("a file")
    (tmp_path / ".out.mlpackage.partial-11111111").symlink_to(out)
    previous_path(out).mkdir()
    (previous_path(out) / "notes.txt").write_text("no package")
    before = names(tmp_path)
    assert recover(out) is None
    assert names(tmp_path) == before
    with pytest.raises(PackageError, match="cannot rename"):
        rewrite(out, out, b"new")
    assert names(tmp_path) == before
    assert blob_of(out) == b"old"


def test_previous_is_kept_while_the_destination_is_something_else(tmp_path: Path) -> None:
    out = tmp_path / "out.mlpackage"
    package_with(previous_path(out), b"old")
    out.mkdir()
    assert recover(out) is None
    assert blob_of(previous_path(out)) == b"old"


def test_file_systems_that_cannot_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs go on, and nothing is taken for abandoned."""

    def refuse(fd: int, operation: int) -> None:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(replace.fcntl, "flock", refuse)
    source = package_with(tmp_path / "in.mlpackage", b"old")
    rewrite(source, source, b"new")
    assert blob_of(source) == b"new"
    (tmp_path / ".in.mlpackage.partial-0123abcd").mkdir()
    assert recover(source) is None
    assert names(tmp_path) == [".in.mlpackage.partial-0123abcd", "in.mlpackage"]


def test_old_package_that_cannot_be_removed(tmp_path: Path) -> None:
    source = package_with(tmp_path / "in.mlpackage", b"old")

    def refuse(operation: str, path: Path) -> None:
        if operation == "remove":
            raise PackageError("cannot remove it: Operation not permitted")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk, "announce", refuse)
        with pytest.raises(PackageError, match=r"in\.mlpackage is complete, but cannot remove .* by hand"):
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
