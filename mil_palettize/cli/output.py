"""Where the command line writes: standard streams that may be closed, full or cut off, and the report's file."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mil_palettize.cli.colours import coloured, has_colours
from mil_palettize.cli.logs import asks_for_logs, logged, logged_count
from mil_palettize.errors import ConfigError, PackageError
from mil_palettize.package.whole_files import replacing_file
from mil_palettize.text import python_name

if TYPE_CHECKING:
    from mil_palettize.reports.counting import Count
    from mil_palettize.reports.progress import ProgressEvent

STANDARD_STREAM = "-"
_JSON = ("{", "[")
WIDTH_OF_FILES = 1000  # where no terminal limits it: wide enough that no name is cut and a weight takes one line


def open_streams() -> None:
    """Give standard streams that were closed (``>&-``) a place to write to, before a file gets their number."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character shows "?"


def width() -> int:
    """Columns of the terminal."""
    return shutil.get_terminal_size((110, 24)).columns if sys.stdout.isatty() else WIDTH_OF_FILES


def progress(options: argparse.Namespace) -> bool | Callable[[ProgressEvent], object] | None:
    """A bar, but for scripts; lines of the log where these are asked for."""
    if asks_for_logs(options):
        return logged
    return None if options.quiet or options.json else True


def count(options: argparse.Namespace) -> bool | Count:
    """The same of work that is only counted."""
    return logged_count if asks_for_logs(options) else not options.json


def show(text: str) -> None:
    """Write to standard output. Raises PackageError when its disk is full. A reader that closes the pipe, as ``head``
    does, is no error: the rest goes nowhere."""
    try:
        sys.stdout.write(coloured(text) if has_colours(sys.stdout) and not text.startswith(_JSON) else text)
        sys.stdout.flush()
    except BrokenPipeError:
        _discard()
    except OSError as error:
        _discard()
        raise PackageError(f"cannot write to standard output: {error.strerror}") from error


def _discard() -> None:
    """Lead standard output nowhere: Python flushes it once more when it ends, which would fail again."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def identity(path: str | None) -> tuple[int, int] | None:
    """Device and inode of what lies at ``path``, None where nothing is. Another answer later means that it
    was replaced."""
    try:
        status = os.stat(os.path.expanduser(path or ""))
    except OSError:
        return None
    return status.st_dev, status.st_ino


def check_report_path(
    report: str, packages: Iterable[str | None], read: Mapping[str, object] | None = None, option: str = "--report"
) -> None:
    """Refuse a place that cannot be written to, or where the file would spoil a package or what is read, before any
    work is done. ``read``: what other options were given, by option; what is no path (a number, None) is of no file.

    Raises ConfigError for a file that has another use, PackageError where none can be written: what to choose instead.
    """
    path = Path(os.path.realpath(report))
    for package in packages:
        if package and path.is_relative_to(os.path.realpath(os.path.expanduser(package))):
            raise ConfigError(f"{option} {report} is inside the package {package}; choose a place outside it")
    for other, source in (read or {}).items():
        if isinstance(source, str):
            _check_apart(option, report, other, source)
    if path.is_dir():
        raise PackageError(f"{option} {report} is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise PackageError(f"{option} {report} is in the folder {path.parent}, which does not exist; make it first")
    if not os.access(report if os.path.exists(report) else path.parent, os.W_OK):
        raise PackageError(f"no permission to write {option} {report}; choose another place")


def _check_apart(option: str, report: str, other: str, source: str) -> None:
    """Raise ConfigError where ``report`` is the file of ``source``, FILE.py:NAME too, or in the folder that it is."""
    named = python_name(source)
    file = os.path.expanduser(source if named is None else named[0])
    if os.path.isdir(file):
        if Path(os.path.realpath(report)).is_relative_to(os.path.realpath(file)):
            raise ConfigError(f"{option} {report} is in the folder of {other}; choose a place outside it")
        return
    linked = os.path.isfile(file) and identity(report) == identity(file)  # by whatever name
    if linked or os.path.realpath(report) == os.path.realpath(file):
        raise ConfigError(f"{option} {report} is the file of {other}; choose another")


def write_report(report: str, content: str | bytes) -> None:
    """Replace the file at ``report`` at once, or write to the pipe or device there. Raises PackageError."""
    with replacing_file(report) as file:
        file.write(content.encode() if isinstance(content, str) else content)
