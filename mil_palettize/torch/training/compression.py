"""Palettes for the weights of a torch model at once, without training: what the palettizers that compress share."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from mil_palettize.algorithms.making import ArraySource, make_palette
from mil_palettize.errors import ConfigError, PlanError
from mil_palettize.expressions.packed import Packed
from mil_palettize.torch.training.metadata import is_pruned, register
from mil_palettize.torch.training.module_weights import (
    ModuleWeight,
    check_keys,
    check_usable,
    module_weights,
    tell_ties,
)
from mil_palettize.torch.training.settings import WeightSettings, misfit, too_small, weight_settings
from mil_palettize.torch.training.trained_palette import TrainedPalette, packed_mask
from mil_palettize.torch.training.weight_report import WeightsReport, weight_row

logger = logging.getLogger("mil_palettize")
_DEFAULT_NBITS = 4


@dataclass(frozen=True)
class ChosenWeight:
    """A weight that gets a palette."""

    place: ModuleWeight
    settings: WeightSettings

    @property
    def value(self) -> torch.Tensor:
        """float32"""
        return self.place.value.detach().float()


def chosen_weights(model: nn.Module, config: Any) -> list[ChosenWeight]:
    """Those that ``config`` is for; what cannot have such a palette is left out, which is logged. Tied ones once.

    Raises ConfigError for wrong values and for an entry that no module is meant by, PlanError where no weight is left
    and for one that is no parameter, AlgorithmError for one with NaN or infinite values.
    """
    check_keys(model, config)
    asked: list[tuple[ModuleWeight, WeightSettings | None]] = []
    for place in module_weights(model):
        entry = config.get_module_config(place.name, place.module)
        if entry is None:
            asked.append((place, None))
            continue
        settings = weight_settings(entry, _DEFAULT_NBITS, place.axis, f"weight '{place.full_name}'")
        shape = tuple(place.value.shape)
        problem = misfit(settings, shape, is_pruned(place.owner, place.parameter)) or too_small(settings, shape)
        if problem:
            logger.warning("weight '%s' is left as it is: %s", place.full_name, problem)
        else:
            check_usable(place)
            asked.append((place, settings))
    tell_ties(asked)
    found: dict[int, ChosenWeight] = {}
    for place, chosen in asked:
        if chosen is not None:
            found.setdefault(id(place.value), ChosenWeight(place, chosen))
    if not found:
        raise PlanError("no weight is palettized: the config is for none of the model's modules, or fits none")
    return list(found.values())


def compress(
    model: nn.Module, chosen: Iterable[ChosenWeight], importances: Mapping[str, np.ndarray], workers: int
) -> WeightsReport:
    """Put the best palettes in the place of the weights of ``model``, with what ``ct.convert`` needs to write them.

    ``importances``: by the weight's name, of its shape; all elements alike for what is not in it.
    """
    if not isinstance(workers, int) or workers < 1:
        raise ConfigError(f"num_kmeans_workers is {workers!r}, it must be a whole number, 1 or more")
    chosen = list(chosen)
    with ThreadPoolExecutor(workers) as executor:
        made = list(executor.map(lambda one: _palette(one, importances.get(one.place.full_name)), chosen))
    rows = {}
    for one, palette in zip(chosen, made, strict=True):
        rows[one.place.full_name] = weight_row(one.value, palette)
        put_palette(model, one.place, palette)
    return WeightsReport(rows)


def put_palette(model: nn.Module, place: ModuleWeight, palette: TrainedPalette) -> None:
    """In the place of this name in ``model``, with what ``ct.convert`` needs to write it."""
    owner = model.get_submodule(place.owner_name)
    with torch.no_grad():
        getattr(owner, place.parameter).copy_(palette.values)
    register(model, owner, place.parameter, palette)


def stored_source(one: ChosenWeight) -> ArraySource:
    """What float16 holds of a weight, as a package would have it; float32 where that is too small for it."""
    value = one.value.cpu().numpy()
    with np.errstate(over="ignore"):
        halves = value.astype(np.float16)
    fits = bool(np.isfinite(halves).all()) or not bool(np.isfinite(value).all())
    return ArraySource(one.place.full_name, halves if fits else value)


def pruned_mask(one: ChosenWeight) -> Packed | None:
    """Where a pruned weight is not zero; None for others."""
    return packed_mask(one.value != 0) if is_pruned(one.place.owner, one.place.parameter) else None


def _palette(one: ChosenWeight, importance: np.ndarray | None) -> TrainedPalette:
    asked, mask = one.settings.specification(), pruned_mask(one)
    made = make_palette(stored_source(one), asked, importance=importance, mask=mask)
    return TrainedPalette.of_expression(one.settings, made.expr)
