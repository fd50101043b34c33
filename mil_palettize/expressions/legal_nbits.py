"""The numbers of bits that Core ML packs integers into. Light to import: the command line offers them."""

from __future__ import annotations

LEGAL_NBITS = (1, 2, 3, 4, 6, 8)
