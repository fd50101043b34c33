"""Every constant of a program, and the types and names of its ops: what planning asks about."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from mil_palettize.program.block_paths import specializations
from mil_palettize.program.consumers import Known
from mil_palettize.program.op_names import check_length, op_name, other_names
from mil_palettize.program.scopes import build_scope
from mil_palettize.program.sites import Site, inline_sites, site_of
from mil_palettize.program.stages import Stage


@dataclass
class Survey:
    """What a stage's functions hold: constants in program order, how many ops there are of each type, and names by
    function of ops and of what they give."""

    sites: list[Site] = field(default_factory=list)
    op_counts: Counter[str] = field(default_factory=Counter)
    op_names: set[tuple[str, str]] = field(default_factory=set)

    @property
    def op_types(self) -> set[str]:
        return set(self.op_counts)

    def add(self, other: Survey) -> None:
        self.sites += other.sites
        self.op_counts += other.op_counts
        self.op_names |= other.op_names


def survey(stage: Stage) -> Survey:
    """Every constant of the stage's functions and nested blocks, and what else planning asks about."""
    found = Survey()
    for name, function in sorted(stage.program.functions.items()):
        label = stage.function_label(name)
        check_length(label)
        for opset, path, block in specializations(function):
            scope = build_scope(function, block, path)
            known = Known()
            sites = (site_of(node, label, opset, known) for node in scope.constants)
            found.sites += [site for site in sites if site is not None]
            for scoped in scope.ops:
                found.op_counts[scoped.op.type] += 1
                found.op_names.update((label, name) for name in (op_name(scoped.op), *other_names(scoped.op)))
                found.sites += inline_sites(scoped, label, opset)
    return found
