"""Moments of a weight from its place in the program alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mil_palettize.algorithms.layerwise.moments import Moments
from mil_palettize.algorithms.layerwise.structured import structured_square
from mil_palettize.calibration.request import Calibration
from mil_palettize.calibration.solving import Findings, Solved, solved
from mil_palettize.encoding.encoder import PMap, Task
from mil_palettize.encoding.results import Declined
from mil_palettize.program.roles import is_weight_input
from mil_palettize.program.weight import Weight

_CONVOLUTIONS = ("conv", "conv_transpose")
_PLANES = 4  # the rank of a weight of convolutions over two axes


@dataclass(frozen=True)
class Reading:
    """How a convolution multiplies with a weight: ``rows``: the axis of its output channels; ``groups``: its own;
    ``kernel``: how many of the last axes are one."""

    rows: int
    groups: int
    kernel: int


def reading(weight: Weight) -> Reading | None:
    """Of the convolutions of pictures that multiply with the weight; None where they differ, or anything else does.

    Nothing holds of the inputs of other ops: on audio and recurrent networks the same moments made outputs worse.
    """
    found = set()
    for reader in (c for c in weight.consumers if is_weight_input(c.op_type, c.input_name)):
        if reader.op_type not in _CONVOLUTIONS or reader.path or len(weight.shape) < _PLANES:
            return None
        if reader.channel_axis is None:
            return None
        found.add(Reading(reader.channel_axis, reader.groups, len(weight.shape) - 2))
    return found.pop() if len(found) == 1 else None


def structured_moments(shape: tuple[int, ...], read: Reading) -> Moments:
    """One matrix for each group; all other axes than that of the rows are columns."""
    places = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
    groups = read.groups
    if groups > 1 and read.rows == 1:  # conv_transpose: groups lie along the inputs
        apart = places.reshape(groups, shape[0] // groups, *shape[1:]).swapaxes(1, 2)
        where = apart.reshape(groups, shape[1], -1)
    else:
        where = np.moveaxis(places, read.rows, 0).reshape(groups, shape[read.rows] // groups, -1)
    window = math.prod(shape[len(shape) - read.kernel :])
    square = structured_square(where.shape[2], window)
    return Moments(where, np.broadcast_to(square, (len(where), *square.shape)))


def place_findings(weight: Weight) -> Findings:
    """What is known of a weight without samples."""
    read = reading(weight)
    return Findings(() if read is None else (structured_moments(weight.shape, read),))


def solved_alone(weight: Weight, task: Task, calibration: Calibration, pmap: PMap = map) -> Solved | Declined:
    """The palette of ``task`` by the weight alone. ``pmap``: as for :func:`solved`."""
    return solved(task, place_findings(weight), calibration, pmap)
