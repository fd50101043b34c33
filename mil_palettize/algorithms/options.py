"""What the options of a palette may be. Light to import: the command line offers these."""

from __future__ import annotations

GRANULARITIES = ("per_tensor", "per_grouped_channel")
SCALES = ("op", "fold")
LUT_DTYPES = ("int8", "uint8")
