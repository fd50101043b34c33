"""What stands on either side of a comparison: a package, run here or by Core ML, outputs that were recorded, a torch
module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from mil_palettize.errors import ConfigError, EvaluationError
from mil_palettize.torch.ahead import Ahead
from mil_palettize.torch.coreml_runtime import CoreMLModel
from mil_palettize.torch.evaluator.model_pipeline import Evaluated
from mil_palettize.torch.evaluator.ops.states import State
from mil_palettize.torch.features import GRAYSCALE_FLOAT16, Features, plain_array

Sample = Mapping[str, Any]


class Side(Protocol):
    """``name``: what errors call it."""

    name: str

    def make_state(self) -> Any:
        """A new one, with which a sequence of calls begins."""

    def outputs(self, sample: Sample, state: Any) -> dict[str, Any]:
        """By name. Raises EvaluationError."""


class PackageSide:
    """A model run by the evaluator. ``only``: the outputs that are looked at, None for all."""

    def __init__(self, name: str, module: Evaluated, only: Sequence[str] | None = None) -> None:
        self.name = name
        self.module = module
        self.ahead = Ahead(module)
        self._only = only

    def make_state(self) -> dict[str, State]:
        return self.module.make_state()

    def outputs(self, sample: Sample, state: Any) -> dict[str, Any]:
        """What the model predicts, and its images also before they are rounded to bytes: there a difference may
        vanish."""
        results, features = self.ahead.results(sample, state), self.module.features
        predicted = features.outputs(results)
        if self._only is not None:
            return {name: predicted[name] for name in self._only}
        images = {name: image for name in results if (image := features.image_output(name)) is not None}
        unrounded = {
            f"{name} (before rounding)": results[name].detach().cpu().numpy()
            for name, image in images.items()
            if image.colorSpace != GRAYSCALE_FLOAT16  # which is not rounded
        }
        return predicted | unrounded


class KeptSide:
    """What another side gives, which is asked once: after :meth:`again` the same calls get the same."""

    def __init__(self, side: Side) -> None:
        self.name = side.name
        self._side = side
        self._kept: list[dict[str, Any]] = []
        self._calls = 0

    def again(self) -> KeptSide:
        """From the first call on."""
        self._calls = 0
        return self

    def make_state(self) -> Any:
        return self._side.make_state()

    def outputs(self, sample: Sample, state: Any) -> dict[str, Any]:
        if self._calls == len(self._kept):
            self._kept.append(self._side.outputs(sample, state))
        self._calls += 1
        return self._kept[self._calls - 1]


class DeviceSide:
    """A model run by Core ML. ``only``: as of :class:`PackageSide`."""

    def __init__(self, name: str, model: CoreMLModel, only: Sequence[str] | None = None) -> None:
        self.name = name
        self._model = model
        self._only = only

    def make_state(self) -> Any:
        return self._model.make_state()

    def outputs(self, sample: Sample, state: Any) -> dict[str, Any]:
        predicted = self._model.predict(sample, state)
        return predicted if self._only is None else {name: predicted[name] for name in self._only}


class RecordedSide:
    """Outputs of ``calls`` calls that something else gave, by name, as ``run --out`` writes them: of a single call as
    they are, of several along an axis in front, or along the first one where the model's own is 1. It is asked once for
    each call, in their order.

    Raises EvaluationError for names that are no outputs (``features``: the model's), and for another number of calls.
    """

    def __init__(self, name: str, arrays: Mapping[str, np.ndarray], calls: int, features: Features) -> None:
        self.name = name
        self.names = _checked_names(name, arrays, features)
        other = [output for output, array in arrays.items() if calls > 1 and array.shape[:1] != (calls,)]
        if other:
            shape = list(arrays[other[0]].shape)
            raise EvaluationError(f"{name} has {other[0]!r} of shape {shape}, and there are {calls} samples")
        self._rows: Iterator[dict[str, Any]] = iter(
            {output: array[i] if calls > 1 else array for output, array in arrays.items()} for i in range(calls)
        )

    def make_state(self) -> None:
        """What was recorded has none."""

    def outputs(self, sample: Sample, state: Any) -> dict[str, Any]:
        return next(self._rows)


class TorchSide:
    """A torch module. ``arguments``: what it takes of a sample, a tuple or keywords; else the inputs as tensors, in the
    order of the description. ``names``: of its results, in their order; those of a mapping go by their own names where
    it has all of them.

    Raises ConfigError for a module in training mode, and for inputs that are images without ``arguments``.
    """

    name = "the torch module"

    def __init__(
        self, module: nn.Module, features: Features, names: Sequence[str], arguments: Callable[[Sample], Any] | None
    ) -> None:
        if module.training:
            raise ConfigError("the torch module is in training mode, and so gives other results; call module.eval()")
        images = [name for name, one in features.inputs.items() if one.type.WhichOneof("Type") == "imageType"]
        if images and arguments is None:
            raise ConfigError(f"input {images[0]!r} is an image; say with arguments= what the torch module takes of it")
        self.names = _checked_names(self.name, names, features)
        self._module = module
        self._order = list(features.inputs)
        self._arguments = arguments or self._in_order

    def make_state(self) -> None:
        """Torch modules keep theirs themselves."""

    def outputs(self, sample: Sample, state: Any) -> dict[str, Any]:
        given = self._arguments(sample)
        with torch.no_grad():
            found = self._module(**given) if isinstance(given, Mapping) else self._module(*given)
        if isinstance(found, Mapping) and found.keys() >= set(self.names):
            results = [found[name] for name in self.names]
        else:
            results = list(found.values() if isinstance(found, Mapping) else _listed(found))
        if len(results) != len(self.names) or not all(isinstance(result, torch.Tensor) for result in results):
            kinds = ", ".join(type(result).__name__ for result in results)
            raise EvaluationError(f"it gives {kinds or 'nothing'}, not a tensor for each of {list(self.names)}")
        return {name: result.cpu().numpy() for name, result in zip(self.names, results, strict=True)}

    def _in_order(self, sample: Sample) -> tuple[torch.Tensor, ...]:
        return tuple(torch.as_tensor(plain_array(name, sample[name])) for name in self._order if name in sample)


def as_model_gives(name: str, value: Any, like: Any) -> Any:
    """An array from elsewhere as the model gives this output: with its axes of 1 in front, as the probabilities of its
    classes in their order, or as a label. Raises EvaluationError for another shape."""
    array = np.asarray(value)
    if isinstance(like, dict | np.ndarray) and array.dtype.kind not in "fiub":
        raise EvaluationError(f"output {name!r} is of dtype {array.dtype} in the reference; give numbers")
    if isinstance(like, dict) and array.size == len(like):
        return dict(zip(like, array.reshape(-1).tolist(), strict=True))
    if isinstance(like, np.ndarray) and _without_ones(array.shape) == _without_ones(like.shape):
        return array.reshape(like.shape)
    if not isinstance(like, dict | np.ndarray) and array.size == 1:
        return array.reshape(-1)[0].item()
    wanted = f"{len(like)} classes" if isinstance(like, dict) else list(np.shape(like))
    raise EvaluationError(f"output {name!r} is {list(array.shape)} in the reference, {wanted} of the model")


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without those in front."""
    return shape if shape[:1] != (1,) else _without_ones(shape[1:])


def _listed(found: Any) -> Sequence[Any]:
    return found if isinstance(found, tuple | list) else [found]


def _checked_names(whose: str, names: Sequence[str] | Mapping[str, Any], features: Features) -> list[str]:
    known = list(features.outputs_described)
    unknown = [name for name in names if known and name not in known]
    if unknown or not names:
        told = f"has no output {unknown[0]!r}" if unknown else "needs the name of an output"
        raise EvaluationError(f"the model {told}; it gives {', '.join(map(repr, known))}: rename it in {whose}")
    return list(names)
