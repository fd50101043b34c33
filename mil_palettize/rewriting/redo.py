"""Palettes that are there already made anew: the weights they stand for are made dense first, in a package of its own.

Only the constants that will get another palette; whatever else is compressed stays so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container
from dataclasses import dataclass, replace
from pathlib import Path

from mil_palettize.encoding.workers import Workers
from mil_palettize.program.chains import Chain, chain_key, chain_ops, find_chains, inner_ops
from mil_palettize.program.form_names import describe_form
from mil_palettize.program.model import Model
from mil_palettize.program.sites import stored_nbytes
from mil_palettize.program.weight import WeightId
from mil_palettize.reports.progress import make_progress
from mil_palettize.reports.report import DECOMPRESSED, PALETTIZED, Report
from mil_palettize.rewriting.decompression import decompress_model
from mil_palettize.rewriting.dense_verification import verify_decompressed


@dataclass(frozen=True)
class Old:
    """A palette that is to be made anew: its form in words, the bytes of its parts, and what is equal for palettes
    that are stored once."""

    form: str
    nbytes: int
    stored: bytes


def palettes(model: Model) -> dict[WeightId, Old]:
    """The constants of a model that are palettes of some form."""
    chains = [chain for chain in find_chains(model.survey().sites) if not chain.obstacle and _has_palette(chain)]
    return {chain.site.weight.id: _old(chain) for chain in chains}


def _old(chain: Chain) -> Old:
    nbytes = sum(stored_nbytes(op) for op in chain_ops(chain.node))
    return Old(describe_form(chain.site), nbytes, chain_key(chain.node))


def _has_palette(chain: Chain) -> bool:
    return any(op.type.startswith("constexpr_lut_") for op in chain_ops(chain.node))


def parts(model: Model, keys: Container[WeightId]) -> set[WeightId]:
    """The compressed constants that only the palettes of ``keys`` are made from."""
    sites = model.survey().sites
    inner = inner_ops([chain for chain in find_chains(sites) if chain.site.weight.id in keys])
    return {site.weight.id for site in sites if id(site.op) in inner}


def write_dense(source: Path, folder: Path, keys: Container[WeightId], pool: Workers, *, verify: bool) -> int | None:
    """Write the package at ``source`` into the empty ``folder`` with the palettes of ``keys`` dense; gives the number
    of records that nothing pointed at and that are not in it, None where that is not known. Raises as
    ``decompress_package`` does."""
    report = Report(str(source), str(folder), 0, 0, action=DECOMPRESSED)

    def wanted(chain: Chain) -> bool:
        return chain.site.weight.id in keys and _has_palette(chain)

    with Model.open(source) as model:
        decompress_model(model, folder, report, pool=pool, progress=make_progress(None), only=wanted)
    if verify:
        verify_decompressed(source, folder, report)
    return report.dropped_records


def tell(report: Report, old: dict[WeightId, Old]) -> None:
    """Say in ``report`` what the weights that were palettes were, and how many bytes they took."""
    for index, weight in enumerate(report.weights):
        was = old.get(weight.id)
        if was is not None and weight.status == PALETTIZED:
            note = f"in place of what was compressed already ({was.form}), made of the values that stood for"
            report.weights[index] = replace(weight, bytes_before=was.nbytes, notes=(*weight.notes, note))


def correct_estimate(report: Report, old: dict[WeightId, Old], gone: Container[WeightId]) -> None:
    """Make the ``report`` of a dry run, which took the palettes of ``old`` for dense, each stored by itself, that of a
    run. ``gone``: constants they were made from."""
    report.weights = [weight for weight in report.weights if weight.id not in gone]
    after: dict[bytes, set[int]] = defaultdict(set)
    before = {was.stored: was.nbytes for was in old.values()}
    for weight in report.weights:
        was = old.get(weight.id)
        if was is not None and weight.status == PALETTIZED:
            size = weight.bytes_after
            report.bytes_after += 0 if size is None else weight.bytes_before - size
            after[was.stored].add(was.nbytes if size is None else size)
    report.bytes_after += sum(sum(sizes) - before[stored] for stored, sizes in after.items())
