"""Checkpoints that ``torch.save`` wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from mil_palettize.errors import PackageError
from mil_palettize.package.array_files import unreadable
from mil_palettize.package.checkpoints import Tensors
from mil_palettize.package.links import refuse_pointer

_WHAT = "a state_dict that torch.save wrote"
_NESTED = ("state_dict", "model")  # where training scripts put one


def load_checkpoint(path: Path) -> Tensors:
    """The tensors of floats of a ``state_dict``, or of one that lies under ``state_dict`` or ``model``. Only plain data
    is unpickled (``weights_only``).

    Raises PackageError for what is none.
    """
    refuse_pointer(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise unreadable(path, error, _WHAT) from error
    except Exception as error:  # whatever comes of damaged pickles; torch's text advises to run what is in the file
        raise unreadable(path, ValueError("it is damaged, or holds more than tensors"), _WHAT) from error
    for name in _NESTED:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if not isinstance(found, Mapping):
        raise PackageError(f"{path} holds no state_dict; save one with torch.save(model.state_dict(), ...)")
    floats = {str(name): value for name, value in found.items() if _of_floats(value)}
    return {name: _reading(tensor) for name, tensor in floats.items()}


def _of_floats(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _reading(tensor: torch.Tensor) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        array: np.ndarray = tensor.detach().to_dense().float().numpy()
        return array

    return read
