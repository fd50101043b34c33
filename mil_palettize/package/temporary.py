"""Packages that a run needs for itself, in the system's temporary folder; what killed runs left there is removed."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mil_palettize.package.replacement import SUFFIX, is_abandoned

_PREFIX = "mil-palettize-"
_NAME = re.compile(re.escape(_PREFIX) + r"([0-9]{1,10})-[^/]+" + re.escape(SUFFIX))


@contextmanager
def temporary_package() -> Iterator[Path]:
    """An empty folder for a package, removed on leaving. It holds an ``flock`` and its name the process's number, so
    that a later run knows whether anybody needs it."""
    with tempfile.TemporaryDirectory(suffix=SUFFIX, prefix=f"{_PREFIX}{os.getpid()}-") as name:
        owner = os.open(name, os.O_RDONLY)
        try:
            with suppress(OSError):  # of file systems that cannot lock folders
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield Path(name)
        finally:
            os.close(owner)


def remove_abandoned_packages() -> None:
    """Remove what :func:`temporary_package` made for runs of this user that were killed."""
    with suppress(OSError):  # the folder may not be there, and others remove as well
        for entry in list(os.scandir(tempfile.gettempdir())):
            named = _NAME.fullmatch(entry.name)
            if named is None or not entry.is_dir(follow_symlinks=False):
                continue
            own = entry.stat(follow_symlinks=False).st_uid == os.getuid()
            if own and not _is_running(int(named[1])) and is_abandoned(Path(entry.path)):
                shutil.rmtree(entry.path, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
