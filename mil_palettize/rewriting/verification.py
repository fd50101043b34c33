"""The written package opened again and held against its source and the report: every palette is decoded,
and everything else has to be the same, op by op, byte by byte and file by file."""

from __future__ import annotations

import filecmp
import math
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from google.protobuf.message import Message

from mil_palettize.errors import PackageError, PalettizeError, VerifyError
from mil_palettize.expressions.digest import expression_digest
from mil_palettize.expressions.weight_expr import WeightExpr, lut_of
from mil_palettize.package.blob import BlobReader
from mil_palettize.program.contents import dense, expression, fingerprint, record_digest
from mil_palettize.program.forms import FORMS
from mil_palettize.program.model import Model
from mil_palettize.program.names import NameSource
from mil_palettize.program.opsets.move import opset_of
from mil_palettize.program.palette_ops import palette_ops, store_palette
from mil_palettize.program.scopes import is_constant_op, op_name
from mil_palettize.program.serialized import Site
from mil_palettize.program.store import Store, StoredWeight
from mil_palettize.program.values import MIL, NUMPY_TYPES
from mil_palettize.reports.report import Report, WeightReport

# The report's error is summed over the histogram, this one over the elements: only rounding may differ.
RELATIVE_TOLERANCE = 1e-9
_FIRST_RECORD = 64


def verify_package(
    source: Path, written: Path, report: Report, importance: Mapping[tuple[str, str], np.ndarray] | None = None
) -> None:
    """Decode every palette of the package at ``written`` and compare it with the one at ``source`` and with
    ``report``; compare everything else, after the same move to a later opset, for equality. Raises VerifyError
    naming the first weight, op or file that differs; PackageError when the source cannot be read any more.
    ``importance``: that palettes were made with, by function and name of the constant; each size divides the weight's.
    """
    with Model.open(source) as original:
        try:
            with Model.open(written) as result:
                if report.moved:
                    original.move(min((opset_of(name) for _, name in result.functions()), key=lambda o: o.spec))
                _Comparison(original, result, report, importance or {}).run()
        except PalettizeError as error:
            said = str(error).replace(str(written), report.destination or str(written))
            raise VerifyError(f"{said}; nothing was put in place: check the disk, then run again") from error


class _Comparison:
    """``original``: moved as ``result`` was."""

    def __init__(
        self, original: Model, result: Model, report: Report, importance: Mapping[tuple[str, str], np.ndarray]
    ) -> None:
        self.importance = importance
        self.original = original
        self.result = result
        self.moved = bool(report.moved)
        found = (s for s in original.survey().sites if s.weight.form == "const" or s.weight.joint)
        self.sites = {id(site.op): site for site in found}
        self.written = {id(site.op): site for site in result.survey().sites}
        # In program order: names may repeat in sibling blocks.
        self.claims: dict[tuple[str, str], deque[WeightReport]] = defaultdict(deque)
        for weight in report.palettized:
            self.claims[weight.function, weight.name].append(weight)

    def run(self) -> None:
        self._check_files()
        self._check_weight_files()
        if self.differ(self.original.without_ops(), self.result.without_ops()):
            raise VerifyError("inputs, outputs, description or metadata were written otherwise than they are")
        for one, two in zip(self.original.stages, self.result.stages, strict=True):
            for name, function in sorted(one.program.functions.items()):
                blocks = two.program.functions[name].block_specializations
                comparison = _BlockComparison(self, one.function_label(name), NameSource(function))
                for opset, block in sorted(function.block_specializations.items()):
                    comparison.check(block, blocks[opset])
        for weight in (w for weights in self.claims.values() for w in weights):
            raise VerifyError(f"{weight.function}/{weight.name!r} was reported as palettized and is dense")

    def _check_files(self) -> None:
        """All but the model and its weight files are the same bytes."""
        files, written = self.original.package.files(), self.result.package.files()
        if files != written:
            name = min(set(files) ^ set(written))
            raise VerifyError(f"the file {name} is {'missing' if name in files else 'not in the source'}")
        model = self.original.package
        used = {model.weight_path(use.file_name, used_by=use.owner) for use in self.original.blob_uses()}
        for name in files:
            path = model.path / name
            if path not in used | {model.model_path} and not _is_same_file(path, self.result.package.path / name):
                raise VerifyError(f"the file {name} has other bytes than in the source")

    def _check_weight_files(self) -> None:
        uses = self.result.blob_uses()
        readers = {self.result.store.reader(use.file_name, used_by=use.owner) for use in uses}
        for reader in sorted(readers, key=lambda reader: reader.path):
            _check_layout(reader)

    def differ(self, one: Message, two: Message) -> bool:
        expected = fingerprint(one, self.original.store, as_declared=self.moved)
        return fingerprint(two, self.result.store) != expected


@dataclass(frozen=True)
class _BlockComparison:
    """Of one function. ``names``: those of the original, from which new ops take theirs in the same way."""

    packages: _Comparison
    function: str
    names: NameSource

    def check(self, one: MIL.Block, two: MIL.Block) -> None:
        if self.packages.differ(_bare_block(one), _bare_block(two)):
            raise VerifyError(f"a block of function {self.function!r} has other inputs or outputs")
        following = deque(two.operations)
        for op in one.operations:
            if not following:
                raise VerifyError(f"{op.type} {op_name(op)!r} of function {self.function!r} is missing")
            self._check_op(op, following)
        for op in following:
            raise VerifyError(f"{op.type} {op_name(op)!r} of function {self.function!r} is new")

    def _check_op(self, one: MIL.Operation, following: deque[MIL.Operation]) -> None:
        """Hold ``one`` against what stands in its place, taken from ``following``."""
        site = self.packages.sites.get(id(one))
        chain = _chain(one, following) if site is not None else []
        if site is not None and chain and (len(chain) > 1 or chain[0].type != one.type):
            for _ in chain:
                following.popleft()
            self._check_palette(site, chain)
            return
        two = following.popleft()
        where = f"{one.type} {op_name(one)!r} of function {self.function!r}"
        if one.type != two.type or len(one.blocks) != len(two.blocks):
            raise VerifyError(f"{where} is missing: {two.type} {op_name(two)!r} is in its place")
        if self.packages.differ(one, two):
            raise VerifyError(f"{where} was to be left alone and differs")
        for inner, other in zip(one.blocks, two.blocks, strict=True):
            self.check(inner, other)

    def _check_palette(self, site: Site, ops: list[MIL.Operation]) -> None:
        key = site.weight.key
        claims = self.packages.claims[site.weight.function, site.weight.name]
        if not claims:
            raise VerifyError(f"{key!r} is a palette that was not reported")
        claim = claims.popleft()
        original, result = self.packages.original.store, self.packages.result.store
        written = self.packages.written.get(id(ops[-1]))
        expr = expression(written, result) if written is not None else None
        shape, dtype = site.weight.shape, NUMPY_TYPES[site.op.outputs[0].type.tensorType.dataType]
        if expr is None or expr.shape != shape or expr.dtype != dtype or not _as_claimed(expr, claim):
            raise VerifyError(f"{key!r} is not stored as the palette of {claim.nbits} bits that was reported")
        self._check_form(site, ops, expr)
        weights = self.packages.importance.get((site.weight.function, site.weight.name))
        error, weighted = _squared_errors(site, original, expr, weights)
        assert claim.squared_error is not None
        if not _is_close(error, claim.squared_error):
            raise VerifyError(f"{key!r} decodes with squared error {error!r}, reported was {claim.squared_error!r}")
        if not _is_close(weighted, claim.weighted_error):
            said = claim.weighted_error
            raise VerifyError(f"{key!r} decodes with weighted squared error {weighted!r}, reported was {said!r}")

    def _check_form(self, site: Site, ops: list[MIL.Operation], expr: WeightExpr) -> None:
        """The ops and the types of their records are those that stand for this palette in this opset."""
        form = FORMS[site.weight.opset]
        assert form is not None
        append = None if site.weight.storage is None else _digest
        values = store_palette(expr, site.weight.joint, form, append)
        own = Site(site.weight, MIL.Operation(), site.value, site.node)
        own.op.ParseFromString(fingerprint(site.op, self.packages.original.store, as_declared=self.packages.moved))
        expected = palette_ops(own, values, self.names)
        stored = [fingerprint(op, self.packages.result.store) for op in ops]
        if stored != [op.SerializeToString(deterministic=True) for op in expected]:
            raise VerifyError(f"the palette of {site.weight.key!r} has other parts, names or types than it has to have")


def _chain(one: MIL.Operation, following: deque[MIL.Operation]) -> list[MIL.Operation]:
    """The constant ops that ``following`` begins with, up to the one with the output of ``one``; [] without that."""
    chain: list[MIL.Operation] = []
    for op in following:
        if not is_constant_op(op.type):
            break
        chain.append(op)
        if op.outputs and op.outputs[0].name == one.outputs[0].name:
            return chain
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
    site: Site, store: Store, expr: WeightExpr, importance: np.ndarray | None
) -> tuple[float, float | None]:
    """The squared error, and with ``importance`` the sum of importance times squared error."""
    decoded = expr.decode().reshape(-1)
    weights = None if importance is None else _of_elements(importance, site.weight.shape).reshape(-1)
    if site.weight.joint:
        original = dense(site, store)
        assert original is not None
        windows: Iterable[np.ndarray] = [original.reshape(-1)]
    else:
        windows = StoredWeight(store, site).windows()
    total, weighted, start = 0.0, 0.0, 0
    for window in windows:
        part = slice(start, start + window.size)
        difference = window.astype(np.float64) - decoded[part]
        total += float(np.dot(difference, difference))
        if weights is not None:
            weighted += float(np.dot(np.square(difference), weights[part]))
        start += window.size
    return total, None if weights is None else weighted


def _of_elements(importance: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """float64 of ``shape``: each number repeated over its block."""
    blocks = [size // count for size, count in zip(shape, importance.shape, strict=True)]
    return np.kron(importance.astype(np.float64), np.ones(blocks))


def _check_layout(reader: BlobReader) -> None:
    """The header counts all records: what reads a weight file from front to back finds the end."""
    records = reader.all_records()
    end = records[-1].end if records else _FIRST_RECORD
    if end != reader.size:
        raise VerifyError(f"the header of {reader.path} counts {len(records)} records, which are not all")


def _bare_block(block: MIL.Block) -> Message:
    bare = MIL.Block(inputs=block.inputs, outputs=block.outputs)
    for name, value in block.attributes.items():
        bare.attributes[name].CopyFrom(value)
    return bare


def _is_same_file(one: Path, two: Path) -> bool:
    try:
        return filecmp.cmp(one, two, shallow=False)
    except OSError as error:
        raise PackageError(f"cannot read {error.filename}: {error.strerror}") from error
