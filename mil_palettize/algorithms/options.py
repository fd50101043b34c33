"""What the options of a palette may be. Light to import: the command line offers these."""

from __future__ import annotations

from typing import Literal, get_args

Mode = Literal["kmeans", "uniform", "unique", "custom"]
Nbits = Literal[1, 2, 3, 4, 6, 8]
Granularity = Literal["per_tensor", "per_grouped_channel"]
Scale = Literal["op", "fold"]
LutDtype = Literal["int8", "uint8"]

GRANULARITIES: tuple[Granularity, ...] = get_args(Granularity)
SCALES: tuple[Scale, ...] = get_args(Scale)
LUT_DTYPES: tuple[LutDtype, ...] = get_args(LutDtype)
