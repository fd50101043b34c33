"""The written package opened again: every decompressed weight held against what it stood for, all else the same."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from pathlib import Path

from mil_palettize.errors import VerifyError
from mil_palettize.program.chains import find_chains, inner_ops
from mil_palettize.program.new_names import NameSource
from mil_palettize.program.site_values import dense
from mil_palettize.program.sites import Site
from mil_palettize.program.values import MIL
from mil_palettize.program.weight import WeightId
from mil_palettize.reports.report import Report
from mil_palettize.rewriting.side_by_side import Sides, hold_against


def verify_decompressed(source: Path, written: Path, report: Report) -> None:
    """Hold the package at ``written`` against the one at ``source``: each weight that ``report`` says was decompressed
    is a constant of the values it stood for, every other op has the same parts and bytes. Raises VerifyError naming
    the first that differs, PackageError when the source cannot be read any more."""
    hold_against(source, written, report, _DenseConstants)


class _DenseConstants:
    """The constants that were reported, of the values that the compressed ones stood for."""

    def __init__(self, sides: Sides, report: Report) -> None:
        self._sides = sides
        self._reported = Counter(weight.id for weight in report.decompressed)
        self._found: Counter[WeightId] = Counter()
        chains = [
            chain
            for chain in find_chains(sides.original.survey().sites)
            if not chain.obstacle and chain.site.weight.id in self._reported
        ]
        self._ends = {id(chain.site.op): chain.site for chain in chains}
        self._gone = inner_ops(chains)

    @property
    def gone(self) -> Mapping[int, MIL.Operation]:
        return self._gone

    def replaced(self, op: MIL.Operation, following: deque[MIL.Operation], names: NameSource) -> bool:
        site = self._ends.get(id(op))
        if site is None:
            return False
        self._check_constant(site, following.popleft())
        return True

    def _check_constant(self, site: Site, op: MIL.Operation) -> None:
        key = site.weight.key
        if op.type != "const" or list(op.outputs) != list(site.op.outputs):
            raise VerifyError(f"{key!r} is not the constant that was reported")
        before = dense(site, self._sides.original.store)
        after = self._sides.result.store.array(op.attributes["val"], used_by=key)
        if before is None or (before.dtype, before.shape) != (after.dtype, after.shape):
            raise VerifyError(f"{key!r} is stored as {after.dtype}{list(after.shape)}, which it did not stand for")
        if before.tobytes() != after.tobytes():
            raise VerifyError(f"{key!r} has other values than the compressed weight stood for")
        self._found[site.weight.id] += 1

    def finish(self) -> None:
        for key in (self._reported - self._found) + (self._found - self._reported):
            raise VerifyError(f"{key.key!r} is not decompressed as often as was reported")
