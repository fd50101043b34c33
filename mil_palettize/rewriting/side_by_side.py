"""A package that was written, opened beside its source: op by op, byte by byte and file by file.

What may differ, and how, an expectation says; everything else has to be the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from google.protobuf.message import Message

from mil_palettize.errors import PalettizeError, VerifyError
from mil_palettize.package.blob import BlobReader
from mil_palettize.program.block_edits import remove_ops
from mil_palettize.program.fingerprints import fingerprint
from mil_palettize.program.model import Model
from mil_palettize.program.new_names import NameSource
from mil_palettize.program.op_names import op_name
from mil_palettize.program.opsets.move import opset_of
from mil_palettize.program.values import MIL
from mil_palettize.reports.report import Report

_FIRST_RECORD = 64


@dataclass(frozen=True)
class Sides:
    """``original``: moved to a later opset as ``result`` was."""

    original: Model
    result: Model

    def differ(self, one: Message, two: Message) -> bool:
        """Whether a message of each is not the same in all its parts, data included."""
        expected = fingerprint(one, self.original.store, as_declared=self.original.moved)
        return fingerprint(two, self.result.store) != expected


class Expectation(Protocol):
    """What was to be replaced."""

    @property
    def gone(self) -> Mapping[int, MIL.Operation]:
        """Ops of the original, by ``id``, that have nothing in their place."""

    def replaced(self, op: MIL.Operation, following: deque[MIL.Operation], names: NameSource) -> bool:
        """Whether other ops stand in the place of ``op``; those are taken from ``following`` and checked. ``names``:
        of the function, from which new ops take theirs. Raises VerifyError."""

    def finish(self) -> None:
        """Raises VerifyError for what was to be replaced and was not met with."""


def hold_against(source: Path, written: Path, report: Report, expect: Callable[[Sides, Report], Expectation]) -> None:
    """Compare the package at ``written`` with the one at ``source``, after the same move to a later opset, and with
    what ``expect`` makes of ``report``.

    Raises VerifyError naming the first weight, op or file that differs; PackageError when the source cannot be read
    any more.
    """
    with Model.open(source) as original:
        try:
            with Model.open(written) as result:
                if report.moved:
                    original.move(min((opset_of(name) for _, name in result.functions()), key=lambda o: o.spec))
                sides = Sides(original, result)
                _check_files(sides)
                _check_weight_files(result)
                if sides.differ(original.without_ops(), result.without_ops()):
                    raise VerifyError("inputs, outputs, description or metadata were written otherwise than they are")
                _check_programs(sides, expect(sides, report))
        except PalettizeError as error:
            said = str(error).replace(str(written), report.destination or str(written))
            raise VerifyError(f"{said}; nothing was put in place: check the disk, then run again") from error


def _check_files(sides: Sides) -> None:
    """All but the model and its weight files are the same bytes."""
    model = sides.original.package
    files, written = model.files(), sides.result.package.files()
    if files != written:
        name = min(set(files) ^ set(written))
        raise VerifyError(f"the file {name} is {'missing' if name in files else 'not in the source'}")
    used = {model.weight_path(use.file_name, used_by=use.owner) for use in sides.original.blob_uses()}
    for name in files:
        path = model.path / name
        if path not in used | {model.model_path} and not model.has_same(name, sides.result.package):
            raise VerifyError(f"the file {name} has other bytes than in the source")


def _check_weight_files(result: Model) -> None:
    readers = {result.store.reader(use.file_name, used_by=use.owner) for use in result.blob_uses()}
    for reader in sorted(readers, key=lambda reader: reader.path):
        _check_layout(reader)


def _check_layout(reader: BlobReader) -> None:
    """The header counts all records: what reads a weight file from front to back finds the end."""
    records = reader.all_records()
    end = records[-1].end if records else _FIRST_RECORD
    if end != reader.size:
        raise VerifyError(f"the header of {reader.path} counts {len(records)} records, which are not all")


def _check_programs(sides: Sides, expectation: Expectation) -> None:
    for stage in sides.original.stages:
        remove_ops(stage, expectation.gone)
    for one, two in zip(sides.original.stages, sides.result.stages, strict=True):
        for name, function in sorted(one.program.functions.items()):
            blocks = two.program.functions[name].block_specializations
            comparison = _BlockComparison(sides, expectation, one.function_label(name), NameSource(function))
            for opset, block in sorted(function.block_specializations.items()):
                comparison.check(block, blocks[opset])
    expectation.finish()


@dataclass(frozen=True)
class _BlockComparison:
    """Of one function. ``names``: those of the original, from which new ops take theirs in the same way."""

    sides: Sides
    expectation: Expectation
    function: str
    names: NameSource

    def check(self, one: MIL.Block, two: MIL.Block) -> None:
        if self.sides.differ(_bare_block(one), _bare_block(two)):
            raise VerifyError(f"a block of function {self.function!r} has other inputs or outputs")
        following = deque(two.operations)
        for op in one.operations:
            if not following:
                raise VerifyError(f"{op.type} {op_name(op)!r} of function {self.function!r} is missing")
            if not self.expectation.replaced(op, following, self.names):
                self._check_same(op, following.popleft())
        for op in following:
            raise VerifyError(f"{op.type} {op_name(op)!r} of function {self.function!r} is new")

    def _check_same(self, one: MIL.Operation, two: MIL.Operation) -> None:
        where = f"{one.type} {op_name(one)!r} of function {self.function!r}"
        if one.type != two.type or len(one.blocks) != len(two.blocks):
            raise VerifyError(f"{where} is missing: {two.type} {op_name(two)!r} is in its place")
        if self.sides.differ(one, two):
            raise VerifyError(f"{where} was to be left alone and differs")
        for inner, other in zip(one.blocks, two.blocks, strict=True):
            self.check(inner, other)


def _bare_block(block: MIL.Block) -> Message:
    bare = MIL.Block(inputs=block.inputs, outputs=block.outputs)
    for name, value in block.attributes.items():
        bare.attributes[name].CopyFrom(value)
    return bare
