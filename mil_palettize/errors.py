"""Everything that can go wrong, each as one line a person can act on.

All derive from :class:`PalettizeError`, itself a ``ValueError`` as coremltools raises for bad requests.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class PalettizeError(ValueError):
    """Base of every error this library raises on purpose. ``str(error)`` is one line.

    >>> try:
    ...     inspect_package("nowhere.mlpackage")
    ... except PalettizeError as error:
    ...     print(type(error).__name__)
    PackageError
    """

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
    """The request itself is wrong: an option, a config object, a YAML file.

    >>> Budget(nbytes=0)
    Traceback (most recent call last):
    mil_palettize.errors.ConfigError: a budget of 0 is none; give a number above 0
    """


class UnsupportedModeError(ConfigError, NotImplementedError):
    """A mode that does not exist with the other options; coremltools raises NotImplementedError for it.

    >>> config = OptimizationConfig(global_config=OpPalettizerConfig(mode="uniform", nbits=4, cluster_dim=2))
    >>> palettize_package("fixtures/conv_fp16_ios18.mlpackage", "small.mlpackage", config)
    Traceback (most recent call last):
    mil_palettize.errors.UnsupportedModeError: ...
    """


class ModelTypeError(PalettizeError, TypeError):
    """What was given is no model that has weights to palettize; coremltools raises TypeError for it.

    >>> palettize_weights("in.mlpackage", OptimizationConfig())
    Traceback (most recent call last):
    mil_palettize.errors.ModelTypeError: mlmodel must be a coremltools MLModel, got str
    """


class PackageError(PalettizeError):
    """A package, or another file that is given, cannot be read, or something cannot be written.

    >>> inspect_package("nowhere.mlpackage")
    Traceback (most recent call last):
    mil_palettize.errors.PackageError: there is no .../nowhere.mlpackage
    """


class BlobError(PackageError):
    """A weight file is damaged, or a program points outside it.

    >>> import os, shutil
    >>> damaged = shutil.copytree("fixtures/conv_fp16_ios18.mlpackage", "damaged.mlpackage")
    >>> os.truncate(f"{damaged}/Data/com.apple.CoreML/weights/weight.bin", 1000)
    >>> inspect_package(damaged)
    Traceback (most recent call last):
    mil_palettize.errors.BlobError: ...past the end of the file (1000 bytes); ...
    """


class PlanError(PalettizeError):
    """The request cannot be met by this model: target, opset, op names, or a skip under ``strict``.

    >>> config = OptimizationConfig(global_config=OpPalettizerConfig(nbits=4))
    >>> palettize_package("fixtures/conv_fp16_ios18.mlpackage", "small.mlpackage", config, target="iOS16")
    Traceback (most recent call last):
    mil_palettize.errors.PlanError: ... packages are never moved down to iOS16: leave the target out or use iOS18
    """


class AlgorithmError(PalettizeError):
    """A palette could not be made of a weight's values (non-finite values, a wrong ``lut_function``).

    >>> options = OpPalettizerConfig(mode="custom", lut_function=lambda weight: (1, 2, 3))
    >>> config = OptimizationConfig(global_config=options)
    >>> palettize_package("fixtures/conv_fp16_ios18.mlpackage", "small.mlpackage", config)
    Traceback (most recent call last):
    mil_palettize.errors.AlgorithmError: weight 'main/stem_weight': lut_function returned a tuple of length 3; ...
    """


class VerifyError(PalettizeError):
    """The written package does not decode to what the report says.

    >>> issubclass(VerifyError, PalettizeError)  # a bug, or a bad disk: no example makes one
    True
    """


class UnsupportedOpError(PalettizeError):
    """A model has ops that the evaluator does not know.

    >>> compare("fixtures/future_op_ios17.mlpackage", "fixtures/future_op_ios17.mlpackage")
    Traceback (most recent call last):
    mil_palettize.errors.UnsupportedOpError: ...ops that this evaluator does not know: future_op (1x); ...
    """


class OutOfMemoryError(PalettizeError, MemoryError):
    """There is not the memory that a model, or what was asked for, takes.

    >>> issubclass(OutOfMemoryError, MemoryError)
    True
    """


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
    """A model cannot be run on the inputs it was given.

    >>> same = "fixtures/conv_fp16_ios18.mlpackage"
    >>> compare(same, same, {"picture": [1.0]})
    Traceback (most recent call last):
    mil_palettize.errors.EvaluationError: ...the model has no input 'picture'; it takes 'image' [1, 16, 12, 12]
    """
