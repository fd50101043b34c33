"""Every change made to a disk: each is announced first and fails with one line naming the file.

Nothing else in this library creates, writes, renames or removes files of a package. :func:`announce` is
the seam: tests replace it to stop a run between any two changes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from mil_palettize.errors import PackageError

# Small writes are gathered up to this many bytes; larger ones go to the file directly.
BUFFER_BYTES = 1 << 20
_COPY_BYTES = 4 << 20
# macOS refuses single writes of 2 GiB and more.
_LARGEST_WRITE = 1 << 26


def announce(operation: str, path: Path) -> None:
    """Called before each change to a disk; does nothing."""


@contextmanager
def _change(operation: str, path: Path) -> Iterator[None]:
    """Announce one change and turn an ``OSError`` in it into a :class:`PackageError`."""
    announce(operation, path)
    try:
        yield
    except OSError as error:
        raise PackageError(f"cannot {operation} {path}: {error.strerror or error}") from error


def make_folder(path: Path) -> None:
    """Make the one folder ``path``, with the modes the umask leaves. Raises PackageError if it exists."""
    with _change("make the folder", path):
        path.mkdir()


def rename(source: Path, destination: Path) -> None:
    """Rename ``source``, which replaces no folder that holds anything."""
    with _change(f"rename {source} to", destination):
        source.rename(destination)


def sync_folder(path: Path) -> None:
    """Make the names in the folder ``path`` survive a power failure."""
    with _change("sync the folder", path):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        except OSError as error:
            # Some network file systems cannot sync folders.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(fd)


def sync_tree(path: Path) -> None:
    """Make every file and folder below ``path``, and ``path``, survive a power failure."""
    for folder, _, names in os.walk(path, topdown=False, onerror=_fail):
        for name in sorted(names):
            file = Path(folder, name)
            with _change("sync", file):
                fd = os.open(file, os.O_RDONLY)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
        sync_folder(Path(folder))


def remove_tree(path: Path) -> None:
    """Remove the folder ``path`` and all in it. Links are removed, never followed; what is gone already
    (two runs may clean up at once) and folders without write permission are no hindrance."""
    with suppress(OSError):
        _make_writable(path)
    for folder, names, files in os.walk(path, topdown=False):
        links = [name for name in names if Path(folder, name).is_symlink()]
        for name in sorted(files + links):
            with _change("remove", Path(folder, name)), suppress(FileNotFoundError):
                os.unlink(Path(folder, name))
        with _change("remove the folder", Path(folder)), suppress(FileNotFoundError):
            os.rmdir(folder)


def make_folders(path: Path) -> None:
    """Make the folder ``path`` and those above it where missing."""
    if not path.is_dir():
        make_folders(path.parent)
        make_folder(path)


class OutputFile:
    """A new file written from front to back, with corrections in what was written (:meth:`write_at`).

    Raises PackageError when ``path`` exists or cannot be written; after such an error the file is broken
    and :meth:`close` raises too, so that a damaged file is never mistaken for a complete one.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.size = 0
        self._pending = bytearray()
        self._broken = False
        with _change("create", self.path):
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def write(self, data: memoryview | bytes) -> None:
        """Append bytes (a memoryview of format ``B``)."""
        if len(self._pending) + len(data) > BUFFER_BYTES:
            self._flush()
        if len(data) >= BUFFER_BYTES:
            self._put(memoryview(data), self.size)
        else:
            self._pending += data
        self.size += len(data)

    def write_at(self, offset: int, data: bytes) -> None:
        """Overwrite bytes that were written before, for what is known only later: sizes, the count of records."""
        self._flush()
        self._put(memoryview(data), offset)

    @contextmanager
    def unbroken(self) -> Iterator[None]:
        """What the block writes belongs together: after an exception in it, completing the file is refused."""
        try:
            yield
        except BaseException:
            self._broken = True
            raise

    @property
    def closed(self) -> bool:
        return self._fd < 0

    def abandon(self) -> None:
        """Close without completing the file."""
        if not self.closed:
            os.close(self._fd)
            self._fd = -1

    def close(self) -> None:
        """Write what is pending, sync, close. Raises PackageError if any write failed."""
        try:
            self._flush()
            with _change("sync", self.path):
                os.fsync(self._fd)
        finally:
            self.abandon()

    def _flush(self) -> None:
        if self._broken:
            raise PackageError(f"{self.path} cannot be completed: writing to it failed before; remove it")
        if self._pending:
            with memoryview(self._pending) as view:
                self._put(view, self.size - len(view))
            self._pending.clear()

    def _put(self, data: memoryview, offset: int) -> None:
        done = 0
        while done < len(data):
            operation = f"write {len(data) - done} bytes at byte {offset + done} of"
            with self.unbroken(), _change(operation, self.path):
                done += os.pwrite(self._fd, data[done : done + _LARGEST_WRITE], offset + done)

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()


def copy_file(source: Path, destination: Path) -> None:
    """Copy the bytes of a file into a new one, in windows; missing folders of ``destination`` are made.

    The mode is what the umask leaves. Raises PackageError naming the file that cannot be read or written.
    """
    make_folders(destination.parent)
    with OutputFile(destination) as output:
        try:
            with source.open("rb", buffering=0) as file:
                while window := file.read(_COPY_BYTES):
                    output.write(window)
        except OSError as error:
            raise PackageError(f"cannot read {source}: {error.strerror}") from error


def _make_writable(path: Path) -> None:
    for folder, _, _ in os.walk(path):
        if not os.access(folder, os.W_OK | os.X_OK):
            os.chmod(folder, 0o700)


def _fail(error: OSError) -> None:
    raise PackageError(f"cannot list {error.filename}: {error.strerror or error}") from error
