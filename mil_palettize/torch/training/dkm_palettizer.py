"""``DKMPalettizer``: palettes that are learned while a torch model is trained."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from coremltools.optimize.torch.palettization import DKMPalettizerConfig as AnyDKMPalettizerConfig
from torch import nn
from torch.nn.utils import parametrize

from mil_palettize.errors import ConfigError, PlanError
from mil_palettize.torch.training.batch_norms import fuse_norms
from mil_palettize.torch.training.config import DKMPalettizerConfig
from mil_palettize.torch.training.copies import copied
from mil_palettize.torch.training.metadata import is_pruned, register
from mil_palettize.torch.training.module_weights import (
    ModuleWeight,
    check_keys,
    check_usable,
    module_weights,
    tell_ties,
)
from mil_palettize.torch.training.palettized_weight import PalettizedWeight
from mil_palettize.torch.training.post_training import checked_model
from mil_palettize.torch.training.settings import WeightSettings, misfit, too_small, weight_settings
from mil_palettize.torch.training.weight_report import WeightsReport, weight_row

logger = logging.getLogger("mil_palettize")


class DKMPalettizer:
    """coremltools' ``DKMPalettizer``: prepare, train with ``step`` after each step of the optimizer, finalize.

    ``model``: any module with layers of the supported types. ``config``: a ``DKMPalettizerConfig``, ours or
    coremltools'; None for its defaults. ``fuse_batch_norm``: ``prepare`` fuses batch norms into the convolutions before
    them, and training goes on without; else they stay, and so they do in the package, as ops behind the palettes.

    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
    >>> config = DKMPalettizerConfig.from_dict({"global_config": {"n_bits": 2, "weight_threshold": 100}})
    >>> palettizer = DKMPalettizer(model, config)
    >>> prepared = palettizer.prepare()
    >>> prepared(torch.randn(4, 32)).square().mean().backward()  # and optimizer.step(), as often as you train
    >>> palettizer.step()
    >>> palettizer.finalize()[0].weight.unique().numel()
    4
    """

    def __init__(
        self, model: nn.Module, config: AnyDKMPalettizerConfig | None = None, *, fuse_batch_norm: bool = True
    ) -> None:
        self._model = checked_model(model)
        self._config = DKMPalettizerConfig() if config is None else config
        if not isinstance(self._config, AnyDKMPalettizerConfig):
            raise ConfigError(f"config is {type(config).__name__}, it must be a DKMPalettizerConfig")
        self._fuse_batch_norm = fuse_batch_norm
        self._steps: int | None = None
        self._last_report: WeightsReport | None = None  # of a model that was finalized in place

    def prepare(self, inplace: bool = False) -> nn.Module:
        """The model (a copy without ``inplace``) in training mode, its chosen weights parametrized; those without a
        milestone begin at once.

        Weights whose channels groups or vectors do not divide stay as they are, which is logged. Raises ConfigError for
        an entry that no module is meant by and for wrong values, PlanError where no weight is chosen, where a chosen
        one is frozen or has fewer values than a table, and for a second call; the model stays as it is.
        """
        if self._steps is not None:
            raise PlanError("the model is prepared already; make another DKMPalettizer for another model")
        check_keys(self._model, self._config)
        model = self._model if inplace else copied(self._model)
        chosen = _chosen(model, self._config)
        if self._fuse_batch_norm:
            fuse_norms(model)
        made: dict[int, PalettizedWeight] = {}  # by the parameter: tied weights have one palette
        for weight, settings in chosen:
            pruned = is_pruned(weight.owner, weight.parameter)
            made.setdefault(id(weight.value), PalettizedWeight(weight.full_name, weight.value, settings, pruned))
        for weight, settings in chosen:
            if settings.milestone == 0 and not made[id(weight.value)].begun:
                made[id(weight.value)].begin(weight.value)
        for weight, palettized in [(weight, made[id(weight.value)]) for weight, _ in chosen]:
            parametrize.register_parametrization(weight.owner, weight.parameter, palettized, unsafe=True)
        self._model, self._steps = model.train(), 0
        return self._model

    def step(self) -> None:
        """After each step of the optimizer, or each epoch: weights with a milestone begin in the call after as many, as
        in coremltools.

        Raises PlanError before ``prepare``; AlgorithmError where a weight has become NaN or infinite.
        """
        self._check_prepared("step")
        assert self._steps is not None
        self._steps += 1
        for prepared in _prepared(self._model):
            prepared.palettized.check(prepared.original)
            if not prepared.palettized.begun and self._steps > prepared.palettized.settings.milestone:
                prepared.palettized.begin(prepared.original)

    def finalize(self, model: nn.Module | None = None, inplace: bool = False) -> nn.Module:
        """A copy (with ``inplace`` the model itself) in eval mode with plain parameters, whose values are those of
        palettes, and with what ``ct.convert`` needs to write them as such.

        ``model``: None for the one that ``prepare`` gave. Weights whose milestone has not come stay as they are, which
        is logged. Raises PlanError before ``prepare`` and for a model that has no prepared weight (any more).
        """
        self._check_prepared("finalize")
        model = self._model if model is None else checked_model(model)
        prepared = list(_prepared(model))
        if not prepared:
            raise PlanError("the model has no prepared weights: it is finalized already, or another one")
        for one in prepared:
            one.palettized.check(one.original)
        if inplace:
            self._last_report = self.report()
        else:
            model = _copy(model)
            prepared = list(_prepared(model))
        for one in prepared:
            _finalize(model, one)
        return model.eval()

    def enable_fake_palett(self, flag: bool) -> None:
        """Turn what palettization does to the weights off, or on again."""
        self._check_prepared("enable_fake_palett")
        for one in _prepared(self._model):
            one.palettized.enabled = flag

    def report(self) -> WeightsReport:
        """Of each prepared weight that has begun: its error and its palette; of a model that was finalized in place,
        what they were. Raises PlanError before ``prepare``."""
        self._check_prepared("report")
        if self._last_report is not None:
            return self._last_report
        rows = {}
        for one in _prepared(self._model):
            if one.palettized.begun:
                rows[one.full_name] = weight_row(one.original, one.palettized.palette(one.original))
        return WeightsReport(rows)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs beside the model's own ``state_dict``."""
        self._check_prepared("state_dict")
        return {"steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """After ``prepare``, with the model's own ``load_state_dict``. Raises ConfigError for what is no
        :meth:`state_dict`."""
        self._check_prepared("load_state_dict")
        steps = state.get("steps") if isinstance(state, dict) else None
        if not isinstance(steps, int):
            raise ConfigError("this is no state_dict of a DKMPalettizer; the model's own goes into the model")
        self._steps = steps

    def _check_prepared(self, name: str) -> None:
        if self._steps is None:
            raise PlanError(f"{name}() comes after prepare(), which makes the model ready for it")


class _Prepared:
    """A parametrized weight of a model."""

    def __init__(self, module_name: str, owner: nn.Module, parameter: str, palettized: PalettizedWeight) -> None:
        self.owner, self.parameter, self.palettized = owner, parameter, palettized
        self.full_name = f"{module_name}.{parameter}" if module_name else parameter

    @property
    def original(self) -> torch.Tensor:
        original: torch.Tensor = self.owner.parametrizations[self.parameter].original
        return original


def _prepared(model: nn.Module) -> Iterator[_Prepared]:
    for name, module in model.named_modules():
        if not parametrize.is_parametrized(module):
            continue
        for parameter, transforms in list(module.parametrizations.items()):
            for transform in transforms:
                if isinstance(transform, PalettizedWeight):
                    yield _Prepared(name, module, parameter, transform)


def _copy(model: nn.Module) -> nn.Module:
    """A copy whose parametrized modules have classes of their own: torch keeps the parametrized names in them, and
    what is removed from a copy's class would be gone from that of the original too."""
    made = copied(model)
    for module in made.modules():
        if parametrize.is_parametrized(module):
            kind = type(module)
            names = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
            module.__class__ = type(kind.__name__, kind.__bases__, names)
    return made


def _finalize(model: nn.Module, one: _Prepared) -> None:
    palettized, original = one.palettized, one.original
    parametrize.remove_parametrizations(one.owner, one.parameter, leave_parametrized=False)
    if not palettized.begun:
        logger.warning(
            "weight '%s' stays as it is: its milestone of %d steps has not come",
            one.full_name,
            palettized.settings.milestone,
        )
        return
    palette = palettized.palette(original)
    with torch.no_grad():
        getattr(one.owner, one.parameter).copy_(palette.values)
    register(model, one.owner, one.parameter, palette)


def _chosen(model: nn.Module, config: Any) -> list[tuple[ModuleWeight, WeightSettings]]:
    """The weights that ``config`` is for. Raises PlanError where there are none, or one cannot be palettized."""
    weights = list(module_weights(model))
    sizes: dict[nn.Module, int] = {}  # a module is palettized where all its weights are large enough
    for weight in weights:
        sizes[weight.module] = min(weight.value.numel(), sizes.get(weight.module, weight.value.numel()))
    asked: list[tuple[ModuleWeight, WeightSettings | None]] = []
    for weight in weights:
        entry = _entry(config.get_module_config(weight.name, weight.module), sizes[weight.module])
        if entry is None:
            asked.append((weight, None))
            continue
        nbits = 4 if isinstance(weight.module, nn.Linear) else 2
        settings = weight_settings(entry, nbits, weight.axis, f"weight '{weight.full_name}'")
        problem = misfit(settings, tuple(weight.value.shape), is_pruned(weight.owner, weight.parameter))
        if problem:
            logger.warning("weight '%s' is left as it is: %s", weight.full_name, problem)
            continue
        _check(weight, settings)
        asked.append((weight, settings))
    tell_ties(asked)
    found = [(weight, settings) for weight, settings in asked if settings is not None]
    if not found:
        raise PlanError("no weight is chosen: lower weight_threshold, or give a config that fits the model's modules")
    return found


def _entry(config: Any, size: int) -> Any:
    """Of one or several module configs the one for weights of this many elements: that of the highest threshold."""
    entries = config if isinstance(config, list) else [config]
    fitting = [entry for entry in entries if entry is not None and size > entry.weight_threshold]
    return max(fitting, key=lambda entry: entry.weight_threshold, default=None)


def _check(weight: ModuleWeight, settings: WeightSettings) -> None:
    check_usable(weight)
    value = weight.value
    if not value.requires_grad:
        raise PlanError(
            f"weight '{weight.full_name}' is frozen (requires_grad is False), so no palette of it can be learned; "
            "make it trainable, or leave it out (module_name_configs: None)"
        )
    problem = too_small(settings, tuple(value.shape))
    if problem:
        raise PlanError(f"weight '{weight.full_name}': {problem}; change its config, or leave it out with None")
