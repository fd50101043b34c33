"""In which order tables have their rows."""

from __future__ import annotations

from typing import Literal, get_args

Order = Literal["bytes", "snr", "name"]  # the largest first, the worst first, by name
ORDERS: tuple[Order, ...] = get_args(Order)
