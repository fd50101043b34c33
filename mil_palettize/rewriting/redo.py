"""Palettes that are there already made anew, of the values they stand for.

Only the constants that will get another palette; whatever else is compressed stays so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from mil_palettize.planning.plan import Plan, as_dense
from mil_palettize.program.chains import Chain, chain_key, chain_ops, find_chains, inner_ops, palette_obstacle
from mil_palettize.program.form_names import describe_form
from mil_palettize.program.op_names import op_name
from mil_palettize.program.sites import Site, stored_nbytes
from mil_palettize.program.survey import Survey
from mil_palettize.program.weight import Weight
from mil_palettize.reports.report import Report
from mil_palettize.reports.weight_report import PALETTIZED


@dataclass(frozen=True)
class Old:
    """A palette that is to be made anew. ``weight``: as it is planned for, dense. ``form``: in words; ``nbytes``: of
    its parts. Old palettes that are stored once have equal ``weight.storage``."""

    chain: Chain
    weight: Weight
    form: str
    nbytes: int


def find_old(sites: Iterable[Site]) -> list[Old]:
    """The constants of a model that are palettes of some form, and in whose place another palette can stand."""
    keys: dict[int, bytes] = {}
    return [_old(chain, keys) for chain in find_chains(sites) if not palette_obstacle(chain) and _has_palette(chain)]


def _has_palette(chain: Chain) -> bool:
    return any(op.type.startswith("constexpr_lut_") for op in chain_ops(chain.node))


def _old(chain: Chain, keys: dict[int, bytes]) -> Old:
    nbytes = sum(stored_nbytes(op) for op in chain_ops(chain.node))
    stored_once = chain_key(chain.node, keys).hex(), 0
    return Old(chain, replace(as_dense(chain.site.weight), storage=stored_once), describe_form(chain.site), nbytes)


def as_if_dense(survey: Survey, redone: Iterable[Old]) -> tuple[list[Weight], set[tuple[str, str]]]:
    """The weights and the ops' names of a model as they are without what only the palettes ``redone`` are made from,
    and those dense."""
    weights = {old.chain.site: old.weight for old in redone}
    gone = inner_ops(old.chain for old in redone)
    parts = {(site.weight.function, op_name(site.op)) for site in survey.sites if id(site.op) in gone}
    kept = [site for site in survey.sites if id(site.op) not in gone]
    return [weights.get(site, site.weight) for site in kept], survey.op_names - parts


def all_ops(survey: Survey, redone: Iterable[Old]) -> set[tuple[str, str]]:
    """(function, op name) of the palettes ``redone`` and of what only they are made from."""
    redone = list(redone)
    gone = {id(old.chain.site.op) for old in redone} | inner_ops(old.chain for old in redone).keys()
    return {(site.weight.function, op_name(site.op)) for site in survey.sites if id(site.op) in gone}


def tell(report: Report, plan: Plan, redone: Iterable[Old]) -> None:
    """Say in the ``report`` of ``plan`` what the weights that were palettes were, and how many bytes they took."""
    olds = {old.weight: old for old in redone}
    for index, (weight, decision) in enumerate(zip(report.weights, plan.decisions, strict=True)):
        old = olds.get(decision.weight)
        if old is not None and weight.status == PALETTIZED:
            note = f"in place of what was compressed already ({old.form}), made of the values that stood for"
            report.weights[index] = replace(weight, bytes_before=old.nbytes, notes=(*weight.notes, note))
