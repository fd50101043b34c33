"""Comparisons of every function of a model, as one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from mil_palettize.reports.model_comparison import ModelComparison


def joined(found: Mapping[str, ModelComparison]) -> ModelComparison:
    """``found``: by function, at least one. Outputs, ops and weights are called ``function/name``, as weights are in
    reports; ``samples``: the most that a function had."""
    first = next(iter(found.values()))
    return replace(
        first,
        inputs="; ".join(dict.fromkeys(one.inputs for one in found.values())),
        samples=max(one.samples for one in found.values()),
        outputs=[replace(o, name=f"{name}/{o.name}") for name, one in found.items() for o in one.outputs],
        weights=[replace(w, name=f"{name}/{w.name}") for name, one in found.items() for w in one.weights],
        ops=[replace(op, name=f"{name}/{op.name}") for name, one in found.items() for op in one.ops],
        attributions=[part.of_function(name) for name, one in found.items() for part in one.attributions],
        pictures=[replace(p, name=f"{name}/{p.name}") for name, one in found.items() for p in one.pictures],
        detections=[part for one in found.values() for part in one.detections],
        unmatched=sum(one.unmatched for one in found.values()),
        notes=list(_notes(found)),
    )


def _notes(found: Mapping[str, ModelComparison]) -> Iterator[str]:
    """Those of all functions once, then those of single ones."""
    everywhere = [note for note in next(iter(found.values())).notes if all(note in one.notes for one in found.values())]
    yield from everywhere
    for name, one in found.items():
        yield from (f"{name}: {note}" for note in one.notes if note not in everywhere)
