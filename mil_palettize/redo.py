"""Palettes that are there already made anew: the weights they stand for are made dense first, in a package of its own.

Only the constants that will get another palette; whatever else is compressed stays so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from mil_palettize.decompression import decompress_model
from mil_palettize.dense_verification import verify_decompressed
from mil_palettize.parallel import Workers
from mil_palettize.program.chains import Chain, chain_ops, find_chains
from mil_palettize.program.contents import describe_form
from mil_palettize.program.model import Model
from mil_palettize.program.serialized import stored_nbytes
from mil_palettize.program.weight import Weight
from mil_palettize.progress import make_progress
from mil_palettize.report import DECOMPRESSED, PALETTIZED, Report

Key = tuple[str, str]  # function, name


@dataclass(frozen=True)
class Old:
    """A palette that is to be made anew: its form in words, and the bytes of its parts."""

    form: str
    nbytes: int


def palettes(model: Model) -> dict[Key, Old]:
    """The constants of a model that are palettes of some form."""
    chains = [chain for chain in find_chains(model.survey().sites) if not chain.obstacle and _has_palette(chain)]
    return {key(chain.site.weight): Old(describe_form(chain.site), _nbytes(chain)) for chain in chains}


def _nbytes(chain: Chain) -> int:
    return sum(stored_nbytes(op) for op in chain_ops(chain.node))


def _has_palette(chain: Chain) -> bool:
    return any(op.type.startswith("constexpr_lut_") for op in chain_ops(chain.node))


def key(weight: Weight) -> Key:
    return weight.function, weight.name


def write_dense(source: Path, folder: Path, keys: set[Key], pool: Workers, *, verify: bool) -> None:
    """Write the package at ``source`` into the empty ``folder`` with the palettes of ``keys`` dense. Raises as
    ``decompress_package`` does."""
    report = Report(str(source), str(folder), 0, 0, action=DECOMPRESSED)

    def wanted(chain: Chain) -> bool:
        return key(chain.site.weight) in keys

    with Model.open(source) as model:
        decompress_model(model, folder, report, pool=pool, progress=make_progress(None), only=wanted)
    if verify:
        verify_decompressed(source, folder, report)


def tell(report: Report, old: dict[Key, Old]) -> None:
    """Say in ``report`` what the weights that were palettes were, and how many bytes they took."""
    for index, weight in enumerate(report.weights):
        was = old.get((weight.function, weight.name))
        if was is not None and weight.status == PALETTIZED:
            note = f"in place of what was compressed already ({was.form}), made of the values that stood for"
            report.weights[index] = replace(weight, bytes_before=was.nbytes, notes=(*weight.notes, note))
            if report.dry_run:  # the estimate took it for dense
                report.bytes_after += weight.bytes_before - was.nbytes
