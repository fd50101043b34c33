"""The written package opened again and held against its source and the report: every palette is decoded,
and everything else has to be the same, op by op, byte by byte and file by file."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from mil_palettize.errors import VerifyError
from mil_palettize.expressions.digest import expression_digest
from mil_palettize.expressions.weight_expr import WeightExpr, lut_of
from mil_palettize.program.chains import Chain, chain_uses, find_chains, inner_ops, palette_obstacle
from mil_palettize.program.fingerprints import fingerprint, record_digest
from mil_palettize.program.forms import FORMS
from mil_palettize.program.new_names import NameSource
from mil_palettize.program.palette_ops import palette_ops, store_palette
from mil_palettize.program.scopes import is_constant_op
from mil_palettize.program.site_values import dense, expression
from mil_palettize.program.sites import Site
from mil_palettize.program.store import Store, StoredWeight
from mil_palettize.program.values import MIL, MIN_BLOB_ELEMENTS, NUMPY_TYPES
from mil_palettize.program.weight import WeightId
from mil_palettize.reports.counting import Count, untold
from mil_palettize.reports.report import Report
from mil_palettize.reports.weight_report import PALETTIZED, BiasReport, WeightReport
from mil_palettize.rewriting.side_by_side import Sides, hold_against

# The report's error is summed over the histogram, this one over the elements: only rounding may differ.
RELATIVE_TOLERANCE = 1e-9


def verify_package(
    source: Path,
    written: Path,
    report: Report,
    importance: Mapping[WeightId, np.ndarray] | None = None,
    count: Count = untold,
) -> None:
    """Decode every palette of the package at ``written`` and compare it with the one at ``source`` and with
    ``report``; compare everything else, after the same move to a later opset, for equality. Raises VerifyError
    naming the first weight, op or file that differs; PackageError when the source cannot be read any more.
    ``importance``: that palettes were made with, by constant; each size divides the weight's. ``count``: told of each
    palette that is as it should be.
    """
    hold_against(source, written, report, partial(_Palettes, importance=importance or {}, count=count))


class _Palettes:
    """The palettes that were reported, in the place of constants and of compressed constants."""

    def __init__(
        self, sides: Sides, report: Report, *, importance: Mapping[WeightId, np.ndarray], count: Count
    ) -> None:
        self._importance = importance
        self._count, self._verified, self._all = count, 0, len(report.palettized)
        self._original = sides.original
        self._result = sides.result
        sites = self._original.survey().sites
        self._first_uses = self._original.first_uses()
        chains = _redone(sites, report)
        self._chains = {chain.site for chain in chains}
        self._gone = inner_ops(chains)
        kept = (site for site in sites if site.weight.form == "const" or site.weight.joint)
        self._sites = {id(site.op): site for site in (*kept, *self._chains)}
        self._written = {id(site.op): site for site in self._result.survey().sites}
        self._claims: dict[WeightId, deque[WeightReport]] = defaultdict(deque)  # more than one is one too many
        for weight in report.palettized:
            self._claims[weight.id].append(weight)
        self._biases = {bias.id: bias for bias in report.biases}

    @property
    def gone(self) -> Mapping[int, MIL.Operation]:
        return self._gone

    def replaced(self, op: MIL.Operation, following: deque[MIL.Operation], names: NameSource) -> bool:
        site = self._sites.get(id(op))
        if site is not None and site.weight.id in self._biases:
            self._check_bias(site, following.popleft(), self._biases.pop(site.weight.id))
            return True
        ops = _constants_up_to(op, following) if site is not None else []
        if site is None or not ops or (len(ops) == 1 and ops[0].type == op.type and site not in self._chains):
            return False
        for _ in ops:
            following.popleft()
        self._check_palette(site, ops, names)
        return True

    def finish(self) -> None:
        for weight in (w for weights in self._claims.values() for w in weights):
            raise VerifyError(f"{weight.function}/{weight.name!r} was reported as palettized and is dense")
        for bias in self._biases.values():
            raise VerifyError(f"{bias.function}/{bias.name!r} was reported as corrected and is not there")

    def _check_bias(self, site: Site, written: MIL.Operation, claim: BiasReport) -> None:
        """The same constant with the values that were reported."""
        expected = MIL.Operation()
        expected.ParseFromString(fingerprint(site.op, self._original.store, as_declared=self._original.moved))
        expected.attributes["val"].blobFileValue.fileName = claim.digest
        if fingerprint(written, self._result.store) != expected.SerializeToString(deterministic=True):
            raise VerifyError(f"bias {site.weight.key!r} is not what was reported of it")
        found = dense(self._written[id(written)], self._result.store)
        old = dense(site, self._original.store)
        assert found is not None
        assert old is not None
        largest = float(np.abs(found.astype(np.float64) - old.astype(np.float64)).max())
        if not _is_close(largest, claim.largest):
            raise VerifyError(f"bias {site.weight.key!r} changed by up to {largest!r}, reported was {claim.largest!r}")

    def _check_palette(self, site: Site, ops: list[MIL.Operation], names: NameSource) -> None:
        key = site.weight.key
        claims = self._claims[site.weight.id]
        if not claims:
            raise VerifyError(f"{key!r} is a palette that was not reported")
        claim = claims.popleft()
        original, result = self._original.store, self._result.store
        written = self._written.get(id(ops[-1]))
        expr = expression(written, result) if written is not None else None
        shape, dtype = site.weight.shape, NUMPY_TYPES[site.op.outputs[0].type.tensorType.dataType]
        if expr is None or expr.shape != shape or expr.dtype != dtype or not _as_claimed(expr, claim):
            raise VerifyError(f"{key!r} is not stored as the palette of {claim.nbits} bits that was reported")
        self._check_form(site, ops, expr, names)
        weights = self._importance.get(site.weight.id)
        error, weighted = _squared_errors(site, original, expr, weights, decoded=site in self._chains)
        assert claim.squared_error is not None
        if not _is_close(error, claim.squared_error):
            raise VerifyError(f"{key!r} decodes with squared error {error!r}, reported was {claim.squared_error!r}")
        if not _is_close(weighted, claim.weighted_error):
            said = claim.weighted_error
            raise VerifyError(f"{key!r} decodes with weighted squared error {weighted!r}, reported was {said!r}")
        self._verified += 1
        self._count("verifying", self._verified, self._all)

    def _check_form(self, site: Site, ops: list[MIL.Operation], expr: WeightExpr, names: NameSource) -> None:
        """The ops and the types of their records are those that stand for this palette in this opset."""
        form = FORMS[site.weight.opset]
        assert form is not None
        append = _digest if self._is_in_a_file(site) else None
        values = store_palette(expr, site.weight.joint, form, append)
        own = Site(site.weight, MIL.Operation(), site.value, site.node)
        own.op.ParseFromString(fingerprint(site.op, self._original.store, as_declared=self._original.moved))
        expected = palette_ops(own, values, names)
        stored = [fingerprint(op, self._result.store) for op in ops]
        if stored != [op.SerializeToString(deterministic=True) for op in expected]:
            raise VerifyError(f"the palette of {site.weight.key!r} has other parts, names or types than it has to have")

    def _is_in_a_file(self, site: Site) -> bool:
        """Whether large parts of the palette of ``site`` belong into a weight file."""
        if site not in self._chains:
            return site.weight.storage is not None
        assert site.node is not None
        if site.weight.size < MIN_BLOB_ELEMENTS:
            return False
        return bool(chain_uses(site.node)) or site.weight.function in self._first_uses


def _redone(sites: list[Site], report: Report) -> list[Chain]:
    """The compressed constants that ``report`` has palettes for in their whole place."""
    palettized = {weight.id for weight in report.weights if weight.status == PALETTIZED}
    chains = (c for c in find_chains(sites) if c.site.weight.id in palettized and not c.site.weight.joint)
    return [chain for chain in chains if not palette_obstacle(chain)]


def _constants_up_to(one: MIL.Operation, following: deque[MIL.Operation]) -> list[MIL.Operation]:
    """The constant ops that ``following`` begins with, up to the one with the output of ``one``; [] without that."""
    found: list[MIL.Operation] = []
    for op in following:
        if not is_constant_op(op.type):
            break
        found.append(op)
        if op.outputs and op.outputs[0].name == one.outputs[0].name:
            return found
    return []


def _digest(data: np.ndarray, data_type: int, padding_bits: int) -> tuple[str, int]:
    """In place of a blob reference, as in a fingerprint."""
    flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    return record_digest(data_type, padding_bits, [flat]), 0


def _as_claimed(expr: WeightExpr, claim: WeightReport) -> bool:
    lut = lut_of(expr)
    groups = [1] * len(lut.shape)
    if claim.channel_axis is not None and claim.group_size is not None:
        groups[claim.channel_axis] = lut.shape[claim.channel_axis] // claim.group_size
    axis = None if claim.cluster_dim == 1 else claim.channel_axis
    said = claim.nbits, claim.bytes_after, claim.cluster_dim, axis, claim.digest
    found = lut.indices.nbits, expr.nbytes, lut.vector, lut.vector_axis, expression_digest(expr)
    # Tables of integers are repeated for every scale.
    return found == said and (claim.joint == "scaled" or lut.groups == tuple(groups))


def _is_close(found: float | None, claimed: float | None) -> bool:
    if found is None or claimed is None:
        return found is claimed
    return math.isclose(found, claimed, rel_tol=RELATIVE_TOLERANCE, abs_tol=1e-300)


def _squared_errors(
    site: Site, store: Store, expr: WeightExpr, importance: np.ndarray | None, *, decoded: bool
) -> tuple[float, float | None]:
    """The squared error, and with ``importance`` the sum of importance times squared error. ``decoded``: of what a
    compressed constant stands for."""
    found = expr.decode().reshape(-1)
    weights = None if importance is None else _of_elements(importance, site.weight.shape).reshape(-1)
    if site.weight.joint or decoded:
        original = dense(site, store)
        assert original is not None
        windows: Iterable[np.ndarray] = [original.reshape(-1)]
    else:
        windows = StoredWeight(store, site).windows()
    total, weighted, start = 0.0, 0.0, 0
    for window in windows:
        part = slice(start, start + window.size)
        difference = window.astype(np.float64) - found[part]
        total += float(np.dot(difference, difference))
        if weights is not None:
            weighted += float(np.dot(np.square(difference), weights[part]))
        start += window.size
    return total, None if weights is None else weighted


def _of_elements(importance: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """float64 of ``shape``: each number repeated over its block."""
    blocks = [size // count for size, count in zip(shape, importance.shape, strict=True)]
    return np.kron(importance.astype(np.float64), np.ones(blocks))
