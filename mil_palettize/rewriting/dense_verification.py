"""The written package opened again: every decompressed weight held against what it stood for, all else the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from mil_palettize.errors import PalettizeError, VerifyError
from mil_palettize.program.chains import find_chains, inner_ops
from mil_palettize.program.fingerprints import fingerprint
from mil_palettize.program.model import Model
from mil_palettize.program.op_names import op_name
from mil_palettize.program.site_values import dense
from mil_palettize.program.sites import Site
from mil_palettize.program.values import MIL
from mil_palettize.program.weight import WeightId
from mil_palettize.reports.report import Report


def verify_decompressed(source: Path, written: Path, report: Report) -> None:
    """Hold the package at ``written`` against the one at ``source``: each weight that ``report`` says was decompressed
    is a constant of the values it stood for, every other op has the same parts and bytes. Raises VerifyError naming
    the first that differs, PackageError when the source cannot be read any more."""
    with Model.open(source) as original:
        try:
            with Model.open(written) as result:
                _verify(original, result, report)
        except PalettizeError as error:
            said = str(error).replace(str(written), report.destination or str(written))
            raise VerifyError(f"{said}; nothing was put in place: check the disk, then run again") from error


def _verify(original: Model, result: Model, report: Report) -> None:
    if original.package.files() != result.package.files() or original.without_ops() != result.without_ops():
        raise VerifyError("the files, inputs, outputs or metadata written are not those of the source")
    reported = Counter(weight.id for weight in report.decompressed)
    comparison = _Comparison(original, result, set(reported))
    comparison.run()
    for key in (reported - comparison.found) + (comparison.found - reported):
        raise VerifyError(f"{key.key!r} is not decompressed as often as was reported")


class _Comparison:
    """``reported``: the constants that are dense in ``result``; ``found``: those that are."""

    def __init__(self, original: Model, result: Model, reported: set[WeightId]) -> None:
        self.original = original
        self.result = result
        self.found: Counter[WeightId] = Counter()
        chains = [
            chain
            for chain in find_chains(original.survey().sites)
            if not chain.obstacle and chain.site.weight.id in reported
        ]
        self.ends = {id(chain.site.op): chain.site for chain in chains}
        self.gone = inner_ops(chains)

    def run(self) -> None:
        for one, two in zip(self.original.stages, self.result.stages, strict=True):
            for name, function in sorted(one.program.functions.items()):
                blocks = two.program.functions[name].block_specializations
                for opset, block in sorted(function.block_specializations.items()):
                    self._check_block(one.function_label(name), block, blocks[opset])

    def _check_block(self, function: str, one: MIL.Block, two: MIL.Block) -> None:
        kept = [op for op in one.operations if id(op) not in self.gone]
        if len(kept) != len(two.operations) or list(one.outputs) != list(two.outputs):
            raise VerifyError(f"a block of function {function!r} has {len(two.operations)} ops, not {len(kept)}")
        for a, b in zip(kept, two.operations, strict=True):
            if id(a) in self.ends:
                self._check_dense(self.ends[id(a)], b)
            elif fingerprint(a, self.original.store) != fingerprint(b, self.result.store):
                raise VerifyError(f"{a.type} {op_name(a)!r} of function {function!r} was to be left alone and differs")
            for inner, other in zip(a.blocks, b.blocks, strict=True):
                self._check_block(function, inner, other)

    def _check_dense(self, site: Site, op: MIL.Operation) -> None:
        key = site.weight.key
        if op.type != "const" or list(op.outputs) != list(site.op.outputs):
            raise VerifyError(f"{key!r} is not the constant that was reported")
        before = dense(site, self.original.store)
        after = self.result.store.array(op.attributes["val"], used_by=key)
        if before is None or (before.dtype, before.shape) != (after.dtype, after.shape):
            raise VerifyError(f"{key!r} is stored as {after.dtype}{list(after.shape)}, which it did not stand for")
        if before.tobytes() != after.tobytes():
            raise VerifyError(f"{key!r} has other values than the compressed weight stood for")
        self.found[site.weight.id] += 1
