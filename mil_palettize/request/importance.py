"""How much the elements of each weight count, as the user gives it: checked, frozen, and told apart by a digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from mil_palettize.errors import ConfigError


@dataclass(frozen=True)
class Importance:
    """How much each element, or block of elements, of one weight counts.

    ``array``: positive finite floats of the weight's rank, read-only; each size divides the weight's, a number holds
    for a block. ``digest``: SHA-256 of its type, shape and values, by which two of these are compared. ``asked``: for
    this very weight, so that it is told where that has no effect.
    """

    array: np.ndarray = field(compare=False, repr=False)
    digest: str
    asked: bool = field(default=True, compare=False)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a weight of this shape has elements for every number."""
        sizes = self.array.shape
        return len(sizes) == len(shape) and not any(size % n for n, size in zip(sizes, shape, strict=True))

    def spread(self, shape: tuple[int, ...]) -> np.ndarray:
        """A number for each element of a weight of ``shape``, which it fits: float64."""
        spread = self.array.astype(np.float64)
        for axis, size in enumerate(shape):
            spread = np.repeat(spread, size // spread.shape[axis], axis=axis)
        return spread


class WeightsImportance(dict[str, np.ndarray]):
    """Importance of all weights of a package, by name, of which some may get no palette: nothing has to be told of
    these."""


def checked_importance(given: object) -> dict[str, Importance]:
    """What a user gives for ``importance``, copied: arrays by name of a constant, or ``function/name``.

    Raises ConfigError naming the entry for what is no mapping of names to positive finite floats.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"importance must be a mapping of names of constants to arrays, or None, got {type(given).__name__}"
        )
    for key in given:
        if not isinstance(key, str):
            raise ConfigError(f"importance has the key {key!r}; keys are names of constants, or 'function/name'")
    asked = not isinstance(given, WeightsImportance)
    return {key: _checked(f"importance[{key!r}]", value, asked) for key, value in given.items()}


def _checked(told: str, value: object, asked: bool) -> Importance:
    try:
        array = np.array(value, order="C")
    except Exception as error:
        raise ConfigError(f"{told} is no array: {error}; give positive floats of the weight's shape") from error
    if array.dtype.kind != "f":
        raise ConfigError(f"{told} is {array.dtype}; give positive floats")
    if not array.size:
        raise ConfigError(f"{told} has shape {list(array.shape)}, and no element; give positive floats")
    bad = ~(np.isfinite(array) & (array > 0))
    if bad.any():
        raise ConfigError(f"{told} has an element {array[bad][0]}; all have to be positive and finite")
    array.flags.writeable = False
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape};".encode())
    digest.update(array.reshape(-1).view(np.uint8).data)
    return Importance(array, digest.hexdigest(), asked)
