"""Files that stand for others: links, and the pointers that git leaves where git-lfs did not fetch the file.

A link that leads out of a package is not followed: a hostile package would have files of the machine copied into what
is made of it. Two exceptions are made. In the cache of ``huggingface_hub`` every file of a package is a link from
``snapshots/<revision>/…`` into the ``blobs/`` beside ``snapshots``; and a user may say to follow links.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from mil_palettize.errors import PackageError

_FOLLOWING: ContextVar[bool] = ContextVar("following", default=False)
_POINTER = b"version https://git-lfs.github.com/spec/v1"  # git-lfs docs/spec.md; a pointer has less than 1024 bytes
_LARGEST_POINTER = 1024


@contextmanager
def following_links(follow: bool = True) -> Iterator[None]:
    """Packages opened within may hold links to files anywhere; links to folders are never followed."""
    token = _FOLLOWING.set(follow)
    try:
        yield
    finally:
        _FOLLOWING.reset(token)


def is_inside(path: Path, folder: Path) -> bool:
    """Whether ``path``, all links followed, is below ``folder``."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def may_be_read(path: Path, package: Path) -> bool:
    """Whether ``path``, below ``package`` by its text, is in the package, or a link to a file that may be followed."""
    if is_inside(path, package):
        return True
    if not path.is_symlink() or not is_inside(path.parent, package):
        return False
    return _FOLLOWING.get() or Path(os.path.realpath(path)).parent in _blobs(package)


def way_out(package: Path) -> str:
    """What to do about a link that may not be followed."""
    if _FOLLOWING.get():
        return "links of folders are never followed: put the folder itself there"
    return f"put the file itself there, or give --follow-links if {package.name} can be trusted"


def refuse_pointer(path: Path) -> None:
    """Raise PackageError when a pointer of git-lfs is in the place of the file."""
    try:
        if os.path.getsize(path) > _LARGEST_POINTER:
            return
        with path.open("rb") as file:
            start = file.read(len(_POINTER))
    except OSError:  # whoever reads the file says so
        return
    if start == _POINTER:
        raise PackageError(f"{path} is a git-lfs pointer, not the file: run `git lfs pull`")


def _blobs(package: Path) -> list[Path]:
    """The folder of files of the cache that ``package`` lies in, if it lies in one."""
    parents = Path(os.path.realpath(package)).parents
    caches = [folder.parent for folder in parents if folder.name == "snapshots"]
    return [Path(os.path.realpath(cache / "blobs")) for cache in caches[:1] if os.path.isdir(cache / "blobs")]
