"""Ratios of powers in decibels."""

from __future__ import annotations

import math


def decibels(signal: float, noise: float) -> float:
    """10·log10(``signal`` / ``noise``) of two sums of squares, neither below 0.

    Infinite without noise, also where there is no signal either: nothing differs. -infinite where there is no signal
    (or it is NaN), or the noise is infinite; NaN where the noise is, or both are infinite. The logarithms are
    subtracted: the ratio itself may be too large or too small for a float.
    """
    if noise == 0:
        return math.inf
    return 10 * (math.log10(signal) - math.log10(noise)) if signal > 0 else -math.inf


def snr_text(snr_db: float | None) -> str:
    """As tables have it: ``-`` where there is none, ``lossless`` where nothing was lost."""
    if snr_db is None:
        return "-"
    return f"{snr_db:.1f}" if math.isfinite(snr_db) else "lossless"
