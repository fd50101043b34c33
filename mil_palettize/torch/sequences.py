"""Sequences of calls, through which a model's states live: read from files, and cut."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from mil_palettize.errors import ConfigError
from mil_palettize.text import format_count
from mil_palettize.torch.evaluator.model_pipeline import Evaluated
from mil_palettize.torch.pixels import Pixels
from mil_palettize.torch.samples import Samples, read_samples


def read_sequences(source: str | os.PathLike[str], module: Evaluated, pixels: Pixels | None = None) -> Samples:
    """As :func:`read_samples`, but what that takes for samples are the calls of one sequence, in their order; what it
    takes for sequences stays."""
    samples = read_samples(source, module, sequences=True, pixels=pixels)
    return Samples(in_one(samples), samples.notes)


def in_one(samples: Sequence[Any]) -> list[Any]:
    """Calls as one sequence; those that are sequences already stay."""
    if all(isinstance(sample, Mapping) for sample in samples):
        return [list(samples)]
    return list(samples)


def cut(samples: Sequence[Any], steps: int | None) -> list[Any]:
    """The first ``steps`` calls of each sequence, all where that is None. Raises ConfigError for less than 1."""
    if steps is not None and steps < 1:
        raise ConfigError(f"steps is {steps}; ask for at least 1 call")
    if steps is not None and all(isinstance(sample, Mapping) for sample in samples):
        raise ConfigError(f"steps is {steps}, but there are no sequences; give some (--sequence X), or leave it out")
    return [sample if isinstance(sample, Mapping) else list(sample)[:steps] for sample in samples]


def told(samples: Sequence[Any]) -> str:
    """How long sequences are, in words; "" where all samples are single calls."""
    lengths = [len(sample) for sample in samples if not isinstance(sample, Mapping)]
    if not lengths:
        return ""
    least, most = min(lengths), max(lengths)
    return (
        f", in sequences of {format_count(most, 'call')}"
        if least == most
        else f", in sequences of {least} to {most} calls"
    )
