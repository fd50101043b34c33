"""A package is completed beside its destination, then swapped in: at every instant one complete package
exists under a documented name.

For the destination ``Model.mlpackage`` these names are used, in the same folder:

- ``.Model.mlpackage.partial-<8 hex digits>``: the new package being written, or an old one being removed;
  worth nothing once the run that owns it has ended. Its run holds an ``flock`` on it.
- ``.Model.mlpackage.previous``: the old package, always complete, from just before the new one is renamed
  in until just after. When the destination is missing, this is the package.

The order of a swap is: everything in the new package synced; destination renamed to ``.previous``; new one
renamed to destination; folder synced; ``.previous`` renamed to ``.partial-...`` and removed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mil_palettize.errors import PackageError
from mil_palettize.package import disk
from mil_palettize.text import format_bytes

SUFFIX = ".mlpackage"
MANIFEST = "Manifest.json"
_LONGEST_NAME = 255  # bytes, of the file systems of Linux and macOS
_ADDED = len("..partial-01234567")


def previous_path(destination: Path) -> Path:
    """Where the old package is while the new one is renamed to ``destination``."""
    return destination.with_name(f".{_short(destination.name)}.previous")


def check_destination(source: Path, destination: Path, overwrite: bool) -> None:
    """Raise PackageError when a package read from ``source`` cannot be written to ``destination``.

    Allowed are a new name ending in ``.mlpackage`` in a folder that exists and, with ``overwrite``, an
    existing package, ``source`` itself included. Neither may lie inside the other. Links are followed.
    """
    _check_name(destination)
    target = _resolved(destination)
    _check_parent(target)
    with _locked(target.parent):
        _check_target(target, overwrite)
    real_source = _resolved(source)
    if _is_same(real_source, target):
        return
    if any(_is_same(real_source, folder) for folder in target.parents):
        raise PackageError(f"{destination} is inside the package {source}; choose a place outside it")
    if any(_is_same(target, folder) for folder in real_source.parents):
        raise PackageError(f"{source} is inside {destination}, which would be replaced; choose another place")


def _short(name: str) -> str:
    """``name``, or where a longer one could not be written beside it, its start and a digest of the whole."""
    encoded = os.fsencode(name)
    if len(encoded) <= _LONGEST_NAME - _ADDED:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:16]
    start = encoded[: _LONGEST_NAME - _ADDED - len(digest) - 1].decode("utf-8", "ignore")
    return f"{start}~{digest}"


@contextmanager
def replacing(destination: Path, *, overwrite: bool, needed_bytes: int) -> Iterator[Path]:
    """Yield an empty folder beside ``destination`` to write the new package into; swap it in on leaving.

    An exception in the block removes the folder and leaves ``destination`` as it was. Two runs with the
    same destination do not disturb each other: the last one wins. What interrupted runs left is repaired
    first, as by :func:`recover` (which see for the note). Raises PackageError before the block when
    ``destination`` exists without ``overwrite``, is no package, has no folder to be in, or when fewer than
    ``needed_bytes`` bytes are free there.
    """
    _check_name(destination)
    recover(destination)
    target = _resolved(destination)
    _check_parent(target)
    with _locked(target.parent):
        _check_target(target, overwrite)
    _check_space(target.parent, needed_bytes)
    staging, owner = _make_staging(target)
    try:
        yield staging
        disk.sync_tree(staging)
        removable = _swap(staging, target, overwrite)
    except BaseException:
        # What cannot be removed now is removed by the next run; the first error is the one to be seen.
        with suppress(PackageError):
            disk.remove_tree(staging)
        raise
    finally:
        os.close(owner)
    for folder in removable:
        try:
            disk.remove_tree(folder)
        except PackageError as error:
            raise PackageError(f"{target} is complete; {error}; remove {folder} by hand") from error


def recover(destination: Path) -> str | None:
    """Repair what interrupted runs left beside ``destination``; return one line saying what, or None.

    ``.previous`` is renamed back when ``destination`` is missing, and removed when it is a package;
    ``.partial-...`` folders are removed when no running process owns them (never where the file system
    cannot lock folders). Call it before opening ``destination``, and a source that may have been replaced
    in place. Raises PackageError when a repair fails.
    """
    target = _resolved(destination)
    if not os.path.isdir(target.parent):
        return None
    with _locked(target.parent):
        note, removable = _repair(target)
    for folder in removable:
        disk.remove_tree(folder)
    return note


def _repair(target: Path) -> tuple[str | None, list[Path]]:
    """Settle ``.previous``; return what was done, and the folders to be removed. The parent is locked."""
    previous = previous_path(target)
    removable = [folder for folder in _stagings(target) if _is_abandoned(folder)]
    if _is_package(previous) and not os.path.lexists(target):
        disk.rename(previous, target)
        disk.sync_folder(target.parent)
        return f"restored {target} from {previous.name}, which an interrupted run left", removable
    if _is_package(previous) and _is_package(target):
        removable.append(_set_aside(previous, target))
        return f"removed {previous}, which a run interrupted after its end left", removable
    if removable:
        names = ", ".join(folder.name for folder in removable)
        return f"removed {names} in {target.parent}, which an interrupted run left", removable
    return None, []


def _swap(staging: Path, target: Path, overwrite: bool) -> list[Path]:
    """Rename ``staging`` to ``target``; return the folders to be removed, the old package among them."""
    previous = previous_path(target)
    with _locked(target.parent):
        _, removable = _repair(target)
        # Checked once more: another run may have put something there since this one began.
        _check_target(target, overwrite)
        try:
            if os.path.lexists(target):
                disk.rename(target, previous)
            disk.rename(staging, target)
        except BaseException:
            if not os.path.lexists(target) and _is_package(previous):
                disk.rename(previous, target)
            raise
        try:
            disk.sync_folder(target.parent)
            if os.path.lexists(previous):
                removable.append(_set_aside(previous, target))
        except PackageError as error:
            raise PackageError(
                f"{target} is complete; {error}; the next run puts in order what is beside it"
            ) from error
    return removable


def _set_aside(previous: Path, target: Path) -> Path:
    """Rename ``previous`` to a ``.partial-...`` name, which is worth nothing, before its files are removed one by
    one: whatever is called ``.previous`` is then always complete."""
    removable = _new_staging_path(target)
    disk.rename(previous, removable)
    return removable


def _make_staging(target: Path) -> tuple[Path, int]:
    """A new folder beside ``target`` and the descriptor that holds its lock for as long as it is open."""
    staging = _new_staging_path(target)
    # Under the parent's lock no other run can take the folder for abandoned before it is locked.
    with _locked(target.parent):
        disk.make_folder(staging)
        return staging, _open_locked(staging, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _new_staging_path(target: Path) -> Path:
    return target.with_name(f".{_short(target.name)}.partial-{secrets.token_hex(4)}")


def _stagings(target: Path) -> list[Path]:
    """Existing staging folders for ``target``, sorted."""
    pattern = re.compile(re.escape(f".{_short(target.name)}.partial-") + "[0-9a-f]{8}")
    try:
        with os.scandir(target.parent) as entries:
            found = [e.name for e in entries if pattern.fullmatch(e.name) and e.is_dir(follow_symlinks=False)]
    except OSError as error:
        raise PackageError(f"cannot list {target.parent}: {error.strerror}") from error
    return [target.with_name(name) for name in sorted(found)]


def _is_abandoned(staging: Path) -> bool:
    """Whether no running process holds the lock of a folder that its run holds one on."""
    try:
        fd = os.open(staging, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait for other runs that are about to rename or make something in ``folder``."""
    fd = _open_locked(folder, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(fd)


def _open_locked(folder: Path, operation: int) -> int:
    try:
        fd = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise PackageError(f"cannot open the folder {folder}: {error.strerror}") from error
    # Some network file systems cannot lock folders: runs are then not kept apart, but nothing is lost, as
    # no rename replaces a folder that holds anything.
    with suppress(OSError):
        fcntl.flock(fd, operation)
    return fd


def _check_name(destination: Path) -> None:
    if destination.suffix != SUFFIX:
        raise PackageError(
            f"the destination {destination} does not end in {SUFFIX}; Core ML and Xcode know packages by it"
        )


def _check_parent(target: Path) -> None:
    parent = target.parent
    if not os.path.isdir(parent):
        raise PackageError(f"cannot write {target}: {_missing(parent)}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PackageError(f"cannot write {target}: no permission to write into {parent}")


def _check_target(target: Path, overwrite: bool) -> None:
    """The parent is locked: a package that another run is just renaming would look like none."""
    if not os.path.lexists(target):
        return
    if os.path.isfile(target):
        raise PackageError(f"{target} is a file, which is never overwritten; choose another name for the package")
    if not overwrite:
        raise PackageError(f"{target} exists; use --overwrite (overwrite=True) or choose another name")
    if not _is_package(target):
        raise PackageError(
            f"{target} is not a package (a folder with a {MANIFEST}) and is never overwritten; "
            "remove it yourself or choose another name"
        )


def _missing(folder: Path) -> str:
    """What to do about a folder that is not there."""
    nearest = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    if os.path.isdir(nearest):
        return f"the folder {folder} does not exist; make it first"
    return f"{nearest} is not a folder; choose another place"


def _check_space(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise PackageError(
            f"{format_bytes(needed_bytes)} are needed in {folder}, {format_bytes(free)} are free; "
            "free some or choose a destination on another disk"
        )


def _is_package(path: Path) -> bool:
    return not os.path.islink(path) and os.path.isfile(path / MANIFEST)


def _resolved(path: Path) -> Path:
    """Where ``path`` leads: a link to a package stays, and the package it leads to is replaced."""
    return Path(os.path.realpath(os.path.expanduser(path)))


def _is_same(a: Path, b: Path) -> bool:
    # Not by name alone: file systems may ignore case.
    return a == b or (os.path.exists(a) and os.path.exists(b) and os.path.samefile(a, b))
