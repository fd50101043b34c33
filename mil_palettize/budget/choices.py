"""What may become of each weight: the palettes that its form and the asked limits allow, with the bytes of each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.budget.added_size import AddedSizes
from mil_palettize.planning.plan import Decision
from mil_palettize.planning.sizes import not_smaller, palette_nbytes
from mil_palettize.planning.specifier import specify
from mil_palettize.program.forms import FORMS, refusal
from mil_palettize.program.sites import Site
from mil_palettize.program.weight import Weight
from mil_palettize.request.palette_request import PaletteRequest, palette_request
from mil_palettize.rewriting.palettization import Prepared
from mil_palettize.rewriting.planned_palettes import planned_sites


@dataclass(frozen=True)
class Candidate:
    """One palette that a weight may get. ``options``: of its entry in a config, None for "leave alone"; ``nbytes``:
    what the package grows by, negative where it shrinks; ``stored_nbytes``: of indices, tables and scales, or of the
    weight as it is."""

    options: Mapping[str, Any] | None
    request: PaletteRequest | None
    specification: PaletteSpecification | None
    nbytes: int
    stored_nbytes: int

    def __str__(self) -> str:
        return "left alone" if self.request is None else str(self.request).removeprefix(f"{self.request.mode} ")


@dataclass(frozen=True, eq=False)
class Choice:
    """Constants that get the same palette: they are stored once, or a config cannot tell them apart. ``names``: entries
    of ``op_name_configs`` that mean them; ``candidates``: the first leaves them alone; ``why_dense``: why there is no
    other, "" where there is."""

    names: tuple[str, ...]
    sites: tuple[Site, ...]
    candidates: tuple[Candidate, ...]
    why_dense: str = ""

    @property
    def weight(self) -> Weight:
        return self.sites[0].weight

    def kept(self, candidates: Iterable[Candidate], why: str) -> Choice:
        """With those of its candidates. ``why``: the others are ruled out."""
        left = tuple(candidates)
        return replace(self, candidates=left, why_dense=self.why_dense or (why if len(left) == 1 else ""))


def choices_of(prepared: Prepared, grid: Sequence[Mapping[str, Any]]) -> list[Choice]:
    """The weights that ``prepared`` has a palette for, in program order, each with those of ``grid`` (options of
    requests) that it can have exactly as asked. Of a weight that is stored once the readers' forms have to allow it
    all."""
    decisions = planned_sites(prepared.model, prepared.plan)
    sizes = AddedSizes(prepared.model)
    called: dict[str, set[str]] = defaultdict(set)
    for site in decisions:
        called[site.weight.name].add(site.weight.key)
    found = []
    for sites in _together(decisions):
        candidates = [Candidate(None, None, None, 0, sum(weight.nbytes for weight in _stored(sites)))]
        refused = []
        for options in grid:
            candidate = _candidate([decisions[site] for site in sites], sites, options, sizes)
            if isinstance(candidate, Candidate):
                candidates.append(candidate)
            else:
                refused.append(candidate)
        why = refused[0] if refused and len(candidates) == 1 else ""
        found.append(Choice(_names(sites, called), tuple(sites), tuple(candidates), why))
    return found


def _together(sites: Iterable[Site]) -> list[list[Site]]:
    """Sites that share data, or a name that a config means both by, in the order of their first."""
    groups: list[list[Site]] = []
    place: dict[object, int] = {}
    for site in sites:
        keys = [("name", site.weight.key), *([] if site.weight.storage is None else [("data", site.weight.storage)])]
        met = sorted({place[key] for key in keys if key in place})
        if not met:
            met = [len(groups)]
            groups.append([])
        first, *others = met
        groups[first].append(site)
        for other in others:
            groups[first] += groups[other]
            groups[other] = []
        if others:
            place = {key: first if at in others else at for key, at in place.items()}
        place.update(dict.fromkeys(keys, first))
    return [group for group in groups if group]


def _names(sites: Sequence[Site], others: Mapping[str, set[str]]) -> tuple[str, ...]:
    """Bare names where nothing else is called so, as coremltools knows no other. ``others``: keys by bare name."""
    own = {site.weight.key for site in sites}
    names = (s.weight.name if others[s.weight.name] <= own else s.weight.key for s in sites)
    return tuple(dict.fromkeys(names))


def _stored(sites: Sequence[Site]) -> list[Weight]:
    """One of each that is stored."""
    return list({(s.weight.storage or s.weight.id, s.weight.shape): s.weight for s in sites}.values())


def _candidate(
    decisions: Sequence[Decision], sites: Sequence[Site], options: Mapping[str, Any], sizes: AddedSizes
) -> Candidate | str:
    """Why there is none where one of the constants cannot have it as asked, or would not be smaller."""
    found: set[tuple[PaletteRequest, PaletteSpecification]] = set()
    for decision in decisions:
        specified = _specified(decision.weight, options)
        if isinstance(specified, str):
            return specified
        found.add(specified)
    (request, specification), *others = found
    if others:
        return "it is stored once, and the ops that read it want groups along other axes"
    assert request.nbits is not None
    stored = sum(palette_nbytes(weight, specification, request.nbits) for weight in _stored(sites))
    own = {**options, "channel_axis": specification.axis} if specification.axis is not None else dict(options)
    return Candidate(own, request, specification, sizes.added(sites, specification), stored)


def _specified(weight: Weight, options: Mapping[str, Any]) -> tuple[PaletteRequest, PaletteSpecification] | str:
    """Why it cannot be, where that is so."""
    request, form = palette_request({**options, "mode": "kmeans"}), FORMS[weight.opset]
    assert form is not None
    assert request.nbits is not None
    grouped = request.grouped or request.scale == "fold"
    scaled = request.scale == "op"
    refused = refusal(form, request.nbits, grouped, request.cluster_dim > 1, scaled=scaled)
    if refused:
        return refused
    specified = specify(weight, request, form)
    if specified.specification is None or specified.unmet:
        return f"{specified.unmet}, which no plan takes"
    after = palette_nbytes(weight, specified.specification, request.nbits)
    if after >= weight.nbytes:
        return not_smaller(after, weight.nbytes)
    return request, specified.specification
