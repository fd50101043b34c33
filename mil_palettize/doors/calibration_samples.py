"""The samples of a calibration, checked: calls of the model, of which some are held out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mil_palettize.calibration.request import HELD, Calibration, held_out
from mil_palettize.errors import EvaluationError
from mil_palettize.text import format_count

_FEW = 32
Arrays = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Calls:
    """``arrays``: inputs by name, of each call of the model; ``begins``: whether it is the first of a sample, where
    states begin anew: a sample is one call, or a sequence of them."""

    arrays: Sequence[Arrays]
    begins: Sequence[bool]

    def __len__(self) -> int:
        return len(self.arrays)

    @property
    def held(self) -> frozenset[int]:
        """Numbers of the calls that palettes are not made of: those of every fifth sample, or every fifth call where
        there are fewer samples."""
        count = sum(self.begins)
        if count < HELD:
            return held_out(len(self))
        held, sample = held_out(count), np.cumsum(self.begins) - 1
        return frozenset(number for number, own in enumerate(sample) if own in held)


def calls_of(calibration: Calibration, module: Any, notes: list[str]) -> Calls:
    """For ``module``, an evaluator's; ``notes`` are added to. Raises EvaluationError for samples with NaN or no
    numbers, and what ``read_samples`` does."""
    from mil_palettize.torch.pixels import check_pictures, pixels_of

    given, pixels = calibration.sample_data, pixels_of(calibration.image_mean, calibration.image_scale)
    check_pictures(pixels, given)
    if given is None:
        from mil_palettize.torch.calibration.made_up_samples import natural_samples

        made = natural_samples(module, calibration.samples, calibration.seed)
        notes += _count_notes(len(made), "made-up sample") or [
            f"calibrated on {format_count(len(made), 'made-up sample')}"
        ]
        return Calls(made, [True] * len(made))
    calls = given_calls(given, module, notes, pixels)
    notes += _count_notes(len(calls), "sample" if all(calls.begins) else "call")
    return calls


def given_calls(given: object, module: Any, notes: list[str], pixels: Any = None) -> Calls:
    """Of ``sample_data`` that is there; ``pixels``: of its pictures. Raises as :func:`calls_of`."""
    from mil_palettize.torch.function_inputs import inputs_of
    from mil_palettize.torch.samples import Samples, read_samples

    given = inputs_of(module.function_name, module.functions, given)
    if isinstance(given, str | os.PathLike):
        read = read_samples(given, module, sequences=True, pixels=pixels)
        notes += read.notes
        given = read
    assert isinstance(given, list | Samples)  # a calibration keeps a list of what it is given
    calls = _called(given)
    _check_finite(given)
    return calls


def _count_notes(count: int, kind: str) -> list[str]:
    """What it means that there are few of them."""
    told = f"calibrated on {format_count(count, kind)} only"
    if count < HELD:
        return [
            f"{told}: none is held out (a fifth is, from {HELD} on), so that nothing tells which palettes are better "
            f"on others; give {_FEW} or more"
        ]
    return [f"{told}; {_FEW} or more give better palettes"] if count < _FEW else []


def _called(samples: Sequence[Any]) -> Calls:
    arrays: list[Arrays] = []
    begins: list[bool] = []
    for sample in samples:
        own = [sample] if isinstance(sample, Mapping) else list(sample)
        arrays += own
        begins += [position == 0 for position in range(len(own))]
    return Calls(arrays, begins)


def _check_finite(samples: Sequence[Any]) -> None:
    from mil_palettize.torch.features import plain_array

    for number, sample in enumerate(samples):
        for call in [sample] if isinstance(sample, Mapping) else sample:
            for name, value in call.items():
                array = plain_array(name, value)
                if array.dtype.kind == "f" and not np.isfinite(array).all():
                    raise EvaluationError(f"sample {number} has NaN or infinite values in input {name!r}")


def check_call(module: Any, call: Arrays) -> None:
    """Raise EvaluationError for inputs that an evaluator's ``module`` does not take, by their names, shapes or
    values."""
    tensors = module.features.tensors(call)
    if module.functions:  # a pipeline has none: each of its stages looks at its own inputs
        module.checked(tensors)


@dataclass
class Refusals:
    """Which of a model's ``functions`` do not take the samples ``data``, and why."""

    data: object
    functions: Sequence[str]
    found: dict[str, EvaluationError] = field(default_factory=dict)

    def add(self, function: str, error: EvaluationError) -> None:
        """Raise EvaluationError for samples that are this function's by their name, and where all refuse them."""
        from mil_palettize.torch.function_inputs import has_own

        if has_own(self.data, function):
            raise EvaluationError(f"function {function!r}: {error}") from error
        self.found[function] = error
        if len(self.found) < len(self.functions):
            return
        if len({str(one) for one in self.found.values()}) == 1:
            raise error
        told = "; ".join(f"function {name!r}: {one}" for name, one in self.found.items())
        raise EvaluationError(f"no function of the model takes these samples: {told}") from error
