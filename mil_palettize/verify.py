"""The written package opened again: every palette decoded and held against its source and the report."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from mil_palettize.errors import VerifyError
from mil_palettize.program.model import Model
from mil_palettize.program.palette_ops import read_lut
from mil_palettize.program.serialized import Site
from mil_palettize.program.store import StoredWeight
from mil_palettize.report import Report, WeightReport
from mil_palettize.weight_expr import Lut

Key = tuple[str, str]
# The report's error is summed over the histogram, this one over the elements: only rounding may differ.
RELATIVE_TOLERANCE = 1e-9


def verify_package(source: Path, written: Path, report: Report) -> None:
    """Decode every palette of the package at ``written`` and compare it with the one at ``source`` and with
    ``report``; compare every constant that was left alone byte by byte. Raises VerifyError naming the first
    weight that differs."""
    claims: dict[Key, list[WeightReport]] = defaultdict(list)
    for weight in report.palettized:
        claims[weight.function, weight.name].append(weight)
    with Model.open(source) as original, Model.open(written) as result:
        after = _by_name(result)
        for key, site in _by_name(original).items():
            new = after.get(key)
            if new is None:
                raise VerifyError(f"{site.weight.key!r} is missing from {written}")
            if site.weight.form != "const":
                continue
            if new.weight.form == "const":
                _check_same(original, result, site, new)
            elif claims[key[:2]]:
                _check_palette(original, result, site, new, claims[key[:2]].pop(0))
            else:
                raise VerifyError(f"{new.weight.key!r} is a palette in {written} that was not reported")
    for missing in (w for weights in claims.values() for w in weights):
        raise VerifyError(f"{missing.function}/{missing.name!r} was reported as palettized, {written} has it dense")


def _by_name(model: Model) -> dict[tuple[str, str, int], Site]:
    """Constants by function, name and, since sibling blocks may repeat a name, which of that name it is."""
    found: dict[tuple[str, str, int], Site] = {}
    count: Counter[Key] = Counter()
    for site in model.survey().sites:
        if site.weight.form != "inline":
            key = site.weight.function, site.weight.name
            found[(*key, count[key])] = site
            count[key] += 1
    return found


def _check_palette(source: Model, result: Model, site: Site, new: Site, claim: WeightReport) -> None:
    lut = read_lut(new.op, result.store, used_by=new.weight.key)
    if lut is None or lut.shape != site.weight.shape or lut.indices.nbits != claim.nbits:
        raise VerifyError(f"{new.weight.key!r} is not stored as the palette of {claim.nbits} bits that was reported")
    error = _squared_error(StoredWeight(source.store, site), lut)
    assert claim.squared_error is not None
    if not math.isclose(error, claim.squared_error, rel_tol=RELATIVE_TOLERANCE, abs_tol=1e-300):
        raise VerifyError(
            f"{new.weight.key!r} decodes with squared error {error!r}, reported was {claim.squared_error!r}"
        )


def _squared_error(weight: StoredWeight, lut: Lut) -> float:
    decoded = lut.decode().reshape(-1)
    total, start = 0.0, 0
    for window in weight.windows():
        difference = window.astype(np.float64) - decoded[start : start + window.size]
        total += float(np.dot(difference, difference))
        start += window.size
    return total


def _check_same(source: Model, result: Model, site: Site, new: Site) -> None:
    """Both read window by window: the constants left alone may be the largest."""
    if new.weight.shape != site.weight.shape or new.weight.dtype != site.weight.dtype:
        raise VerifyError(f"{new.weight.key!r} was to be left alone and is {new.weight.dtype}{list(new.weight.shape)}")
    if site.weight.storage is None or new.weight.storage is None:
        if site.value != new.value:
            raise VerifyError(f"{new.weight.key!r} was to be left alone and differs")
        return
    readers = [m.store.locate(s.value, used_by=s.weight.key) for m, s in ((source, site), (result, new))]
    windows = zip(*(reader.windows(record) for reader, record in readers), strict=True)
    if any(not np.array_equal(a, b) for a, b in windows):
        raise VerifyError(f"{new.weight.key!r} was to be left alone and has other bytes")
