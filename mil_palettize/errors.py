"""Everything that can go wrong, each as one line a person can act on.

All derive from :class:`PalettizeError`, itself a ``ValueError`` as coremltools raises for bad requests.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class PalettizeError(ValueError):
    """Base of every error this library raises on purpose. ``str(error)`` is one line."""

    def __init__(self, message: str) -> None:
        # Names in it come from packages, and may hold anything.
        super().__init__(" ".join(message.splitlines()))

    def __reduce__(self) -> tuple[Any, ...]:
        """Sent from another process as it is, whatever the constructor takes."""
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[PalettizeError], arguments: tuple[Any, ...], state: dict[str, Any]) -> PalettizeError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(state)
    return error


class ConfigError(PalettizeError):
    """The request itself is wrong: an option, a config object, a YAML file."""


class UnsupportedModeError(ConfigError, NotImplementedError):
    """A mode that does not exist with the other options; coremltools raises NotImplementedError for it."""


class ModelTypeError(PalettizeError, TypeError):
    """What was given is no model that has weights to palettize; coremltools raises TypeError for it."""


class PackageError(PalettizeError):
    """A package, or another file that is given, cannot be read, or something cannot be written."""


class BlobError(PackageError):
    """A weight file is damaged, or a program points outside it."""


class PlanError(PalettizeError):
    """The request cannot be met by this model: target, opset, op names, or a skip under ``strict``."""


class AlgorithmError(PalettizeError):
    """A palette could not be made of a weight's values (non-finite values, a wrong ``lut_function``)."""


class VerifyError(PalettizeError):
    """The written package does not decode to what the report says."""


class UnsupportedOpError(PalettizeError):
    """A model has ops that the evaluator does not know."""


class OutOfMemoryError(PalettizeError, MemoryError):
    """There is not the memory that a model, or what was asked for, takes."""


@contextmanager
def memory_told() -> Iterator[None]:
    """Every ``MemoryError`` within is an :class:`OutOfMemoryError`, of one line."""
    try:
        yield
    except OutOfMemoryError:
        raise
    except MemoryError as error:
        told = f" ({error})" if str(error) else ""
        raise OutOfMemoryError(f"not enough memory{told}; try fewer workers, or a machine with more") from error


class EvaluationError(PalettizeError):
    """A model cannot be run on the inputs it was given."""
