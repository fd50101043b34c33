"""What was written, held against its source and its report by a reader that shares no code with the library.

The reader is that of the tests (``tests/helpers/packages.py``). Where it cannot read a constant of the *source*, that
constant is not judged by it; the library's own verification judges all of them.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
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
    verify_package(source, written, report)
    for name, one, two in _pairs(source, written, {weight.name for weight in report.palettized}):
        claim = next(weight for weight in report.palettized if weight.name == name)
        error = float(np.sum(np.square(one.astype(np.float64) - two.astype(np.float64))))
        if not math.isclose(error, claim.squared_error or 0.0, rel_tol=TOLERANCE, abs_tol=1e-12):
            raise Broken(f"{name!r} decodes with error {error!r}, reported was {claim.squared_error!r}")


def judge_decompressed(source: Path, written: Path, report: Report) -> None:
    strict_json(report.to_json())
    report.to_text(80)
    inspect_package(written)
    verify_decompressed(source, written, report)
    for name, one, two in _pairs(source, written, {weight.name for weight in report.decompressed}):
        if one.dtype != two.dtype or one.shape != two.shape or not np.array_equal(one, two, equal_nan=True):
            raise Broken(f"{name!r} has other values than it stood for")


def _pairs(source: Path, written: Path, names: set[str]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """What ``names`` stand for in both packages, of those that nothing else is called."""
    before, after = _decoders(source), _decoders(written)
    for name in sorted(names & before.keys()):
        try:
            one = np.asarray(before[name]())
        except Exception:  # the reader of the tests takes sound packages only
            continue
        if name not in after:
            raise Broken(f"{name!r} cannot be found any more")
        yield name, one, np.asarray(after[name]())


def _decoders(package: Path) -> dict[str, Callable[[], np.ndarray]]:
    with Model.open(package) as model:
        called = Counter(output.name for site in model.survey().sites for output in site.op.outputs)
    try:
        read = constants(package)
    except Exception:
        return {}
    known = Counter(name for _, _, _, name in read)  # also of constants that are too damaged to be surveyed
    return {name: decode for (_, _, _, name), (_, decode) in read.items() if called[name] == known[name] == 1}
