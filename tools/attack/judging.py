"""What was written, held against its source and its report by a reader that shares no code with the library.

The reader is that of the tests (``tests/helpers/packages.py``). Where it cannot read a constant of the *source*, that
constant is not judged by it; the library's own verification judges all of them.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from packages import constants

from mil_palettize import inspect_package
from mil_palettize.program.model import Model
from mil_palettize.reports.report import Report
from mil_palettize.rewriting.dense_verification import verify_decompressed
from mil_palettize.rewriting.verification import verify_package

TOLERANCE = 1e-6


class Broken(Exception):
    """What was written is not what the report says."""


def strict_json(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse)


def _refuse(name: str) -> None:
    raise Broken(f"the JSON holds {name}")


def judge_palettized(source: Path, written: Path, report: Report) -> None:
    """``source``: as it was, also where it has been replaced."""
    strict_json(report.to_json())
    report.to_text(80)
    if report.dry_run:
        return
    inspect_package(written)
    if not any("in place of what was compressed already" in note for w in report.weights for note in w.notes):
        verify_package(source, written, report)
    before, after = _values(source), _values(written)
    for weight in report.palettized:
        if weight.name not in before or not before[weight.name][1]:
            continue
        if weight.name not in after or after[weight.name][0] is None:
            raise Broken(f"{weight.name!r} cannot be read any more")
        one, two = (np.asarray(values[weight.name][0], np.float64) for values in (before, after))
        error = float(np.sum(np.square(one - two)))
        if not math.isclose(error, weight.squared_error or 0.0, rel_tol=TOLERANCE, abs_tol=1e-12):
            raise Broken(f"{weight.name!r} decodes with error {error!r}, reported was {weight.squared_error!r}")


def judge_decompressed(source: Path, written: Path, report: Report) -> None:
    strict_json(report.to_json())
    report.to_text(80)
    inspect_package(written)
    verify_decompressed(source, written, report)
    before, after = _values(source), _values(written)
    for weight in report.decompressed:
        if weight.name not in before or not before[weight.name][1]:
            continue
        if weight.name not in after or after[weight.name][0] is None:
            raise Broken(f"{weight.name!r} cannot be read any more")
        one, two = (np.asarray(values[weight.name][0]) for values in (before, after))
        if one.dtype != two.dtype or one.shape != two.shape or not np.array_equal(one, two, equal_nan=True):
            raise Broken(f"{weight.name!r} has other values than it stood for")


def _values(package: Path) -> dict[str, tuple[np.ndarray | None, bool]]:
    """Name -> (values, whether they were read), of constants whose name nothing else has."""
    found: dict[str, tuple[np.ndarray | None, bool]] = {}
    with Model.open(package) as model:
        names = [output.name for site in model.survey().sites for output in site.op.outputs]
    try:
        read = constants(package)
    except Exception:
        return {}
    for (_, _, _, name), (_, decode) in read.items():
        if names.count(name) != 1:
            continue
        try:
            found[name] = decode(), True
        except Exception:
            found[name] = None, False
    return found
