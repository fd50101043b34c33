"""Where ops that resize images sample, as their documentation has it."""

from __future__ import annotations

import numpy as np

MODES = ["STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS"]


def documented_points(mode: str, size: float, count: int) -> np.ndarray:
    """As in the documentation of ``resize_bilinear``."""
    i = np.arange(count)
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        if count == 1:
            return np.array([(size - 1) / 2 if mode == "ALIGN_CORNERS" else 0.0])
        points = i * (size - 1) / (count - 1)
    elif mode == "DEFAULT":
        points = i * ((size - size / count) / (count - 1) if count > 1 else 0)
    elif mode == "OFFSET_CORNERS":
        delta = max(1, size - 1) / count
        points = 0.5 * delta + i * delta
    else:
        spacing = size / count
        points = i * spacing + 0.5 * spacing - 0.5
    return np.minimum(size - 1, np.maximum(0, points))
