"""How many bytes a package grows by with a palette in the place of constants, taken by itself.

Sums of these are off by some bytes from what a package takes: lengths and places are stored in more bytes the larger
they are. ``rewriting/predicted_size.py`` has the exact number of a whole choice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from google.protobuf.message import Message

from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.package.blob_sizes import record_nbytes
from mil_palettize.program.blob_uses import blob_uses
from mil_palettize.program.forms import FORMS
from mil_palettize.program.model import Model
from mil_palettize.program.new_names import NameSource
from mil_palettize.program.palette_ops import PaletteValues, palette_ops, store_palette
from mil_palettize.program.sites import Site
from mil_palettize.rewriting.predicted_size import blank_palette

_FAR = 1 << 20  # a place in a weight file, as most are stored in as many bytes


class AddedSizes:
    """Of the constants of one model."""

    def __init__(self, model: Model) -> None:
        self._names = {
            stage.function_label(name): NameSource(function)
            for stage in model.stages
            for name, function in stage.program.functions.items()
        }
        self._outside = set(self._names) - set(model.first_uses())  # they have no weight file
        self._uses = Counter((use.file_name, use.offset) for use in model.blob_uses())

    def added(self, sites: Sequence[Site], specification: PaletteSpecification) -> int:
        """With the palette of ``specification`` in the place of each of ``sites``, all of which that share data and are
        palettized."""
        stored: dict[object, PaletteValues] = {}
        gone: Counter[tuple[str, int]] = Counter()
        nbytes = 0
        for site in sites:
            weight, form = site.weight, FORMS[site.weight.opset]
            assert form is not None
            uses = blob_uses(site.value)
            key = weight.storage or weight.id, weight.shape, form
            if key not in stored:
                records = _Records(uses[0].file_name if uses else "")
                inside = weight.storage is None and weight.function in self._outside
                blank = blank_palette(weight, specification)
                stored[key] = store_palette(blank, "", form, None if inside else records.append)
                nbytes += records.nbytes
            ops = palette_ops(site, stored[key], self._names[weight.function])
            nbytes += sum(map(_op_nbytes, ops)) - _op_nbytes(site.op)
            for use in uses:
                place = use.file_name, use.offset
                gone[place] += 1
                if gone[place] == self._uses[place]:  # nothing reads it any more
                    nbytes -= record_nbytes(weight.nbytes)
        return nbytes


@dataclass
class _Records:
    """Where a palette's data would go. ``nbytes``: of what came."""

    file_name: str
    nbytes: int = 0

    def append(self, data: np.ndarray, data_type: int, padding_bits: int) -> tuple[str, int]:
        self.nbytes += record_nbytes(data.nbytes)
        return self.file_name, _FAR


def _op_nbytes(op: Message) -> int:
    size = op.ByteSize()
    return size + 1 + max(1, -(-size.bit_length() // 7))
