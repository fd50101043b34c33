"""Promise 4: at every instant one complete package exists under a documented name, whatever is interrupted."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from handmade import contents
from replacing_runs import Killed, acting, blob_of, names, package_with, raise_killed, rewrite
from slow_cases import slow_where

from mil_palettize.errors import PackageError
from mil_palettize.package import replacement as replace
from mil_palettize.package.replacement import previous_path, recover, replacing


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


@pytest.mark.parametrize("stop", slow_where(lambda stop: stop in (1, 2), range(4)))
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
