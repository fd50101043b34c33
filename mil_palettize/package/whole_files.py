"""Single files beside packages (reports, outputs, importance): replaced at once, or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mil_palettize.errors import PackageError


@contextmanager
def replacing_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """What is written within takes the place of the file at ``path`` afterwards, or goes to the pipe or device there.
    After an exception within, the file is as it was. Raises PackageError where it cannot be written."""
    target = Path(os.path.realpath(path))
    partial = target.with_name(f".{target.name}.partial-{secrets.token_hex(4)}")
    try:
        if _is_stream(os.fspath(path)) or not os.access(target.parent, os.W_OK):
            with open(path, "wb") as file:
                yield file
            return
        try:
            with partial.open("wb") as file:
                yield file
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise PackageError(f"cannot write {os.fspath(path)}: {error.strerror or error}") from error


def check_place(path: str | os.PathLike[str]) -> None:
    """Before the work that is to be written there. Raises PackageError where no file can be."""
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise PackageError(f"cannot write {os.fspath(path)}: it is a folder; give the name of a file")
    if not target.parent.is_dir():
        raise PackageError(f"cannot write {os.fspath(path)}: there is no folder {target.parent}; make it first")
    if not os.access(target if target.exists() else target.parent, os.W_OK):
        raise PackageError(f"cannot write {os.fspath(path)}: permission denied")


def _is_stream(path: str) -> bool:
    # /dev/stdout leads to the file that the shell has opened: that is to be written to, not replaced by another.
    return path.startswith(("/dev/", "/proc/")) or (os.path.exists(path) and not os.path.isfile(path))
