"""Reports to the logger ``mil_palettize``, where there is no other place for them."""

from __future__ import annotations

import logging
from collections import defaultdict

from mil_palettize.reports.report import Report
from mil_palettize.text import format_some

logger = logging.getLogger("mil_palettize")
_NAMES = 3


def log_report(report: Report) -> None:
    """What was done otherwise than asked, and what was left alone without being asked for, as warnings; the whole
    report as information."""
    said: dict[str, list[str]] = defaultdict(list)
    labels = report.labels()
    for weight in report.weights:
        for note in weight.notes:
            said[note].append(labels[weight.id])
        if weight.status == "skipped" and not weight.reason.startswith("left alone by"):
            said[f"left alone: {weight.reason}"].append(labels[weight.id])
    for what, names in said.items():
        logger.warning("%s: %s", format_some(names, _NAMES), what)
    for note in report.notes:
        logger.warning("%s", note)
    logger.info("%s", report.to_text())
