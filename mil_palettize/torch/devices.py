"""What torch may compute on."""

from __future__ import annotations

import torch

from mil_palettize.errors import ConfigError


def check_device(name: str) -> None:
    """Raise ConfigError for a device ("cpu", "cuda", "mps") that this machine, or its torch, has not."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(name, False):
        have = [device for device, is_there in there.items() if is_there]
        raise ConfigError(f"torch has no device {name!r} on this machine; use one of {have}")
