"""Second moments where no sample is: what inputs of most networks have in common."""

from __future__ import annotations

import numpy as np

_SHARED = 0.2  # of all inputs
_FEW = 64  # columns up to which they share more
_SHARED_FEW = 2.0


def structured_square(columns: int, window: int) -> np.ndarray:
    """Moments of ``columns`` inputs of which every ``window`` consecutive ones are one channel under a kernel: float64
    (columns, columns).

    Neighbours in a channel are alike, and inputs behind a rectifier have positive means, so that errors of one sign add
    up: the identity, ones within each window, and a part of ones everywhere. That part was found by measuring: 0.2, and
    2 where columns are few (depthwise convolutions) and their sum is most of what there is.
    """
    channels = columns // window
    square = np.eye(columns) + np.kron(np.eye(channels), np.ones((window, window)))
    return square + _shared(columns)


def structured_power(rows: np.ndarray, window: int) -> float:
    """The sum over ``rows`` (float64 (count, columns)) of w H wᵀ with that H, which is not made."""
    windows = rows.reshape(len(rows), -1, window).sum(axis=2)
    whole = windows.sum(axis=1)
    return float(np.vdot(rows, rows) + np.vdot(windows, windows) + _shared(rows.shape[1]) * np.vdot(whole, whole))


def _shared(columns: int) -> float:
    return _SHARED if columns > _FEW else _SHARED_FEW
