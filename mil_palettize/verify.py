"""The written package opened again and held against its source and the report: every palette is decoded,
and everything else has to be the same, op by op, byte by byte and file by file."""

from __future__ import annotations

import filecmp
import math
from collections import defaultdict, deque
from pathlib import Path

import numpy as np
from google.protobuf.message import Message

from mil_palettize.errors import PackageError, PalettizeError, VerifyError
from mil_palettize.forms import FORMS
from mil_palettize.package.blob import BlobReader
from mil_palettize.program.contents import fingerprint, record_digest
from mil_palettize.program.model import Model
from mil_palettize.program.opset import opset_of
from mil_palettize.program.palette_ops import OP_TYPE, lut_op, read_lut, store_lut
from mil_palettize.program.scopes import op_name
from mil_palettize.program.serialized import Site
from mil_palettize.program.store import StoredWeight
from mil_palettize.program.values import MIL
from mil_palettize.report import Report, WeightReport
from mil_palettize.weight_expr import Lut

# The report's error is summed over the histogram, this one over the elements: only rounding may differ.
RELATIVE_TOLERANCE = 1e-9
_FIRST_RECORD = 64


def verify_package(source: Path, written: Path, report: Report) -> None:
    """Decode every palette of the package at ``written`` and compare it with the one at ``source`` and with
    ``report``; compare everything else, after the same move to a later opset, for equality. Raises VerifyError
    naming the first weight, op or file that differs; PackageError when the source cannot be read any more.
    """
    with Model.open(source) as original:
        try:
            with Model.open(written) as result:
                if report.moved:
                    original.move(min((opset_of(name) for _, name in result.functions()), key=lambda o: o.spec))
                _Comparison(original, result, report).run()
        except PalettizeError as error:
            said = str(error).replace(str(written), report.destination or str(written))
            raise VerifyError(f"{said}; nothing was put in place: check the disk, then run again") from error


class _Comparison:
    """``original``: moved as ``result`` was."""

    def __init__(self, original: Model, result: Model, report: Report) -> None:
        self.original = original
        self.result = result
        self.moved = bool(report.moved)
        self.sites = {id(site.op): site for site in original.survey().sites if site.weight.form == "const"}
        # In program order: names may repeat in sibling blocks.
        self.claims: dict[tuple[str, str], deque[WeightReport]] = defaultdict(deque)
        for weight in report.palettized:
            self.claims[weight.function, weight.name].append(weight)

    def run(self) -> None:
        self._check_files()
        self._check_weight_files()
        if self._differ(_without_ops(self.original), _without_ops(self.result)):
            raise VerifyError("inputs, outputs, description or metadata were written otherwise than they are")
        for one, two in zip(self.original.stages, self.result.stages, strict=True):
            for name, function in sorted(one.program.functions.items()):
                blocks = two.program.functions[name].block_specializations
                for opset, block in sorted(function.block_specializations.items()):
                    self._check_block(one.function_label(name), block, blocks[opset])
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

    def _check_block(self, function: str, one: MIL.Block, two: MIL.Block) -> None:
        if self._differ(_bare_block(one), _bare_block(two)):
            raise VerifyError(f"a block of function {function!r} has other inputs or outputs")
        for a, b in zip(one.operations, two.operations, strict=False):
            self._check_op(function, a, b)
        if len(one.operations) != len(two.operations):
            longer, found = (one, "missing") if len(one.operations) > len(two.operations) else (two, "new")
            op = longer.operations[min(len(one.operations), len(two.operations))]
            raise VerifyError(f"{op.type} {op_name(op)!r} of function {function!r} is {found}")

    def _check_op(self, function: str, one: MIL.Operation, two: MIL.Operation) -> None:
        if one.type != two.type and two.type == OP_TYPE and id(one) in self.sites:
            self._check_palette(self.sites[id(one)], two)
            return
        where = f"{one.type} {op_name(one)!r} of function {function!r}"
        if one.type != two.type or len(one.blocks) != len(two.blocks):
            raise VerifyError(f"{where} is missing: {two.type} {op_name(two)!r} is in its place")
        if self._differ(one, two):
            raise VerifyError(f"{where} was to be left alone and differs")
        for inner, other in zip(one.blocks, two.blocks, strict=True):
            self._check_block(function, inner, other)

    def _differ(self, one: Message, two: Message) -> bool:
        expected = fingerprint(one, self.original.store, as_declared=self.moved)
        return fingerprint(two, self.result.store) != expected

    def _check_palette(self, site: Site, op: MIL.Operation) -> None:
        key = site.weight.key
        claims = self.claims[site.weight.function, site.weight.name]
        if not claims:
            raise VerifyError(f"{key!r} is a palette that was not reported")
        claim = claims.popleft()
        lut = read_lut(op, self.result.store, used_by=key)
        weight = StoredWeight(self.original.store, site)
        if lut is None or lut.shape != weight.shape or lut.dtype != weight.dtype or not _as_claimed(lut, claim):
            raise VerifyError(f"{key!r} is not stored as the palette of {claim.nbits} bits that was reported")
        self._check_form(site, op, lut)
        error = _squared_error(weight, lut)
        assert claim.squared_error is not None
        if not math.isclose(error, claim.squared_error, rel_tol=RELATIVE_TOLERANCE, abs_tol=1e-300):
            raise VerifyError(f"{key!r} decodes with squared error {error!r}, reported was {claim.squared_error!r}")

    def _check_form(self, site: Site, op: MIL.Operation, lut: Lut) -> None:
        """The op and the types of its records are those that stand for this palette in this opset."""
        form = FORMS[site.weight.opset]
        assert form is not None
        append = None if site.weight.storage is None else _digest
        expected = lut_op(site.op, store_lut(lut, form, append)).SerializeToString(deterministic=True)
        if fingerprint(op, self.result.store) != expected:
            raise VerifyError(f"the palette of {site.weight.key!r} has other parts, names or types than it has to have")


def _digest(data: np.ndarray, data_type: int, padding_bits: int) -> tuple[str, int]:
    """In place of a blob reference, as in a fingerprint."""
    flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    return record_digest(data_type, padding_bits, [flat]), 0


def _as_claimed(lut: Lut, claim: WeightReport) -> bool:
    groups = [1] * len(lut.shape)
    if claim.channel_axis is not None and claim.group_size is not None:
        groups[claim.channel_axis] = lut.shape[claim.channel_axis] // claim.group_size
    axis = None if claim.cluster_dim == 1 else claim.channel_axis
    said = claim.nbits, claim.bytes_after, tuple(groups), claim.cluster_dim, axis, claim.digest
    return (lut.indices.nbits, lut.nbytes, lut.groups, lut.vector, lut.vector_axis, lut.digest) == said


def _squared_error(weight: StoredWeight, lut: Lut) -> float:
    decoded = lut.decode().reshape(-1)
    total, start = 0.0, 0
    for window in weight.windows():
        difference = window.astype(np.float64) - decoded[start : start + window.size]
        total += float(np.dot(difference, difference))
        start += window.size
    return total


def _check_layout(reader: BlobReader) -> None:
    """The header counts all records: what reads a weight file from front to back finds the end."""
    records = reader.all_records()
    end = records[-1].end if records else _FIRST_RECORD
    if end != reader.size:
        raise VerifyError(f"the header of {reader.path} counts {len(records)} records, which are not all")


def _without_ops(model: Model) -> Message:
    """The specification with empty blocks."""
    spec = type(model.spec)()
    spec.CopyFrom(model.spec)
    for stage in Model(model.package, spec, model.store).stages:
        for function in stage.program.functions.values():
            for block in function.block_specializations.values():
                block.ClearField("operations")
    return spec


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
