"""What a command logs on standard error: as lines for people, or as JSON for machines."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from mil_palettize.cli.parsers import Parser

if TYPE_CHECKING:
    from mil_palettize.reports.progress import ProgressEvent

_logger = logging.getLogger("mil_palettize")


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """One object: time, level, message, and ``progress`` where the line tells of it."""
        progress = getattr(record, "progress", None)
        told = {} if progress is None else {"progress": progress}
        return _json_line(record.created, record.levelname.lower(), record.getMessage(), **told)


def _json_line(seconds: float, level: str, message: str, **told: object) -> str:
    when = datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")
    return json.dumps({"time": when, "level": level, "message": message, **told})


def json_error(message: str) -> str:
    """The line of an error, among those of ``--log-json``."""
    return _json_line(time.time(), "error", message) + "\n"


def add_logs(sub: Parser) -> None:
    group = sub.add_argument_group("logs, on standard error")
    group.add_argument("-v", "--verbose", action="store_true", help="tell of each piece of work when it is done")
    group.add_argument("--log-json", action="store_true", help="the same as JSON, an object for each line")


@contextmanager
def logging_as(options: argparse.Namespace) -> Iterator[None]:
    """Within it, the library's log is written as it was asked for; without that, as Python does by itself."""
    if not asks_for_logs(options):
        yield
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if options.log_json else logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    before = _logger.level, _logger.propagate
    _logger.addHandler(handler)
    _logger.setLevel(logging.DEBUG)
    _logger.propagate = False
    try:
        yield
    finally:
        _logger.removeHandler(handler)
        _logger.level, _logger.propagate = before


def asks_for_logs(options: argparse.Namespace) -> bool:
    """``completion`` has no such options."""
    return bool(getattr(options, "verbose", False) or getattr(options, "log_json", False))


def logged(event: ProgressEvent) -> None:
    """Log how far a run is."""
    if event.runs_total:
        told = f"{event.name}: {event.runs_done} of {event.runs_total}"
    else:
        told = f"{event.name or 'begun'}: {event.weights_done} of {event.weights_total} weights"
    _logger.info("%s", told, extra={"progress": dataclasses.asdict(event)})


def logged_count(what: str, done: int, total: int) -> None:
    """Log what ``compare``, and other work of one kind, tells of itself."""
    _logger.info("%s: %d of %d", what, done, total, extra={"progress": {"name": what, "done": done, "total": total}})
