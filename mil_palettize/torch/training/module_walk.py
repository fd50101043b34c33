"""A torch model run with samples, as it is and as it is palettized so far: what is known of each weight in its turn.

Modules cannot be run one after another, as the ops of a program can, so the model runs anew, up to the last module that
reads a weight, for each of them and each sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

from mil_palettize.algorithms.layerwise.moments import Moments
from mil_palettize.calibration.solving import Findings
from mil_palettize.errors import ConfigError, EvaluationError
from mil_palettize.torch.calibration.streams import wide
from mil_palettize.torch.calibration.sums import Sums
from mil_palettize.torch.calibration.trials import Trials
from mil_palettize.torch.metrics import outputs_noise
from mil_palettize.torch.training.module_weights import ModuleWeight, module_weights
from mil_palettize.torch.training.weight_reads import WeightRead, reads_of


@dataclass(frozen=True)
class Call:
    """Arguments of a module."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def of(self, module: nn.Module) -> Any:
        """What it gives."""
        return module(*self.args, **self.kwargs)


def calls_of(samples: Iterable[Any]) -> list[Call]:
    """A tensor is the only argument of a model, a tuple or list all of them, a mapping those by name.

    Raises ConfigError where there are none, or one is none of these, EvaluationError for NaN and infinity.
    """
    if isinstance(samples, torch.Tensor | Mapping | str) or not isinstance(samples, Iterable):
        raise ConfigError(f"samples is {type(samples).__name__}; give a list, or any iterable, of samples")
    calls = []
    for number, sample in enumerate(samples):
        if isinstance(sample, Mapping):
            call = Call((), dict(sample))
        elif isinstance(sample, torch.Tensor | tuple | list):
            call = Call((sample,) if isinstance(sample, torch.Tensor) else tuple(sample))
        else:
            raise ConfigError(
                f"sample {number} is {type(sample).__name__}; give a tensor, a tuple of the model's arguments, or a "
                "mapping of their names"
            )
        if not all(bool(torch.isfinite(value).all()) for value in _floats((call.args, call.kwargs))):
            raise EvaluationError(f"sample {number} has NaN or infinite values")
        calls.append(call)
    if not calls:
        raise ConfigError("samples is empty; calibration needs some, 32 or more are best")
    return calls


@dataclass(frozen=True)
class WalkSettings:
    """As of ``WalkOptions``: ``held``: numbers of the samples that moments are not made of."""

    positions: int
    seed: int
    held: Collection[int]


class ModuleWalk:
    """``model``: whose weights are replaced as they get palettes; ``like``: the same as it is. Both in eval mode."""

    def __init__(self, model: nn.Module, like: nn.Module, calls: Sequence[Call], settings: WalkSettings) -> None:
        self._model, self._float, self._calls, self._settings = model, like, calls, settings
        self._readers: dict[int, list[str]] = {}  # names of the modules that read a parameter
        for place in module_weights(model):
            self._readers.setdefault(id(place.value), []).append(place.name)
        self._apart = False  # whether the two differ yet
        names = sorted({name for names in self._readers.values() for name in names})
        self._order: list[str] = []  # modules as they are called
        self._counts: list[Counter[str]] = []  # of calls, by sample
        self._wanted: list[Mapping[str, Any]] = []  # outputs of samples held out
        for number, call in enumerate(calls):
            seen: list[str] = []
            with _hooked(like, names, lambda name, _, seen=seen: seen.append(name)):
                given = _run(like, call, number)
            self._order += [] if number else seen
            self._counts.append(Counter(seen))
            if number in settings.held:
                self._wanted.append(_named(given))

    @property
    def holds_out(self) -> bool:
        """Whether there are samples to choose by."""
        return bool(self._wanted)

    def order(self, place: ModuleWeight) -> int:
        """When a weight is read last; weights that are not read come first."""
        names = self._readers[id(place.value)]
        return max((number for number, name in enumerate(self._order) if name in names), default=-1)

    def findings(self, place: ModuleWeight, number: int) -> Findings:
        """What the samples tell of a weight. ``number``: apart from those of other weights."""
        value, size = place.value, place.value.numel()
        own_float = self._float.get_parameter(place.full_name)
        sums: dict[object, Sums] = {}
        counts: np.ndarray | None = None
        fit = [sample for sample in range(len(self._calls)) if sample not in self._settings.held]
        for sample in fit:
            random = [np.random.default_rng([self._settings.seed, number, sample]) for _ in range(2)]
            reads = self._reads(self._model, place, value, sample)
            floats = self._reads(self._float, place, own_float, sample) if self._apart else [None] * len(reads)
            if len(reads) != len(floats):
                raise EvaluationError(
                    f"weight '{place.full_name}' is read {len(reads)} times where the model is palettized and "
                    f"{len(floats)} times where it is not (sample {sample}); leave it out (module_name_configs: None)"
                )
            for read, other in zip(reads, floats, strict=True):
                if read.looks_up:
                    counts = read.counts(size) + (0 if counts is None else counts)
                    continue
                where = read.where
                total = sums.setdefault((where.shape, where.tobytes()), Sums(where))
                own = read.inputs(self._settings.positions, random[0])
                total.add(own, None if other is None else other.inputs(self._settings.positions, random[1]))
        found = [one.moments() for one in sums.values()]
        moments = [Moments(one.where, one.square, one.cross, one.count) for one in found]
        reads_counted = None if counts is None else counts.reshape(tuple(value.shape))
        return Findings(moments, reads_counted, self._judge(place), len(fit))

    def replace(self, place: ModuleWeight, values: torch.Tensor) -> None:
        """The palettized model goes on with them."""
        self._apart = True
        place.value.data.copy_(values)

    def noise(self) -> float:
        """Of the palettized model's outputs on what was held out, relative to their power."""
        held = [number for number in range(len(self._calls)) if number in self._settings.held]
        return outputs_noise(self._wanted, [_named(_run(self._model, self._calls[n], n)) for n in held])

    def _reads(self, model: nn.Module, place: ModuleWeight, value: torch.Tensor, sample: int) -> list[WeightRead]:
        with reads_of(value) as found:
            for name, call in self._captured(model, place, sample):
                call.of(model.get_submodule(name))
        return found

    def _judge(self, place: ModuleWeight) -> Trials | None:
        """One trial for each module that reads the weight."""
        captured = {
            sample: (self._captured(self._model, place, sample), self._captured(self._float, place, sample))
            for sample in range(len(self._calls))
            if sample in self._settings.held
        }
        trials = []
        for name in self._readers[id(place.value)]:
            own, floats = (
                [call for both in captured.values() for reader, call in both[side] if reader == name] for side in (0, 1)
            )
            if own and len(own) == len(floats):
                wanted = [_floats(call.of(self._float.get_submodule(name))) for call in floats]
                trials.append(_ModuleTrial(self._model.get_submodule(name), place.value, own, wanted))
        return Trials(trials) if trials else None

    def _captured(self, model: nn.Module, place: ModuleWeight, sample: int) -> list[tuple[str, Call]]:
        """The calls of the modules that read a weight; the model runs no further than to the last."""
        names = self._readers[id(place.value)]
        most = sum(self._counts[sample][name] for name in names)
        found: list[tuple[str, Call]] = []

        def note(name: str, call: Call) -> None:
            found.append((name, call))
            if len(found) == most:
                raise _EnoughError

        if most:
            with _hooked(model, names, note), suppress(_EnoughError):
                self._calls[sample].of(model)
        return found


class _EnoughError(Exception):
    """All that was asked for has been called."""


class _ModuleTrial:
    """As ``Trial``, of what a module gives; what follows it is not known."""

    def __init__(
        self, module: nn.Module, weight: nn.Parameter, calls: Sequence[Call], wanted: Sequence[Sequence[torch.Tensor]]
    ) -> None:
        self._module, self._weight, self._calls, self._wanted = module, weight, calls, wanted
        self._power = sum(float(wide(out).square().sum()) for outs in wanted for out in outs)

    def __call__(self, weight: np.ndarray) -> float:
        before, error = self._weight.detach().clone(), 0.0
        try:
            self._weight.data.copy_(torch.from_numpy(np.array(weight, np.float32)))
            for call, wanted in zip(self._calls, self._wanted, strict=True):
                for one, two in zip(_floats(call.of(self._module)), wanted, strict=True):
                    error += float((wide(one) - wide(two)).square().sum())
        finally:
            self._weight.data.copy_(before)
        return error / self._power if self._power else error


@contextmanager
def _hooked(model: nn.Module, names: Sequence[str], note: Any) -> Iterator[None]:
    """``note`` is told of each call of the modules, with copies of its arguments, which layers behind may change."""

    def hook(name: str) -> Any:
        def tell(module: nn.Module, args: Any, kwargs: Any) -> None:
            copied = pytree.tree_map_only(torch.Tensor, torch.clone, (args, kwargs))
            note(name, Call(*copied))

        return tell

    handles = [model.get_submodule(name).register_forward_pre_hook(hook(name), with_kwargs=True) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _run(model: nn.Module, call: Call, number: int) -> Any:
    try:
        return call.of(model)
    except Exception as error:  # whatever the model's code does with what it was not made for
        told = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EvaluationError(f"the model does not take sample {number}: {told}") from error


def _floats(values: Any) -> list[torch.Tensor]:
    leaves = pytree.tree_leaves(values)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]


def _named(outputs: Any) -> dict[str, torch.Tensor]:
    return {str(number): out for number, out in enumerate(_floats(outputs))}
