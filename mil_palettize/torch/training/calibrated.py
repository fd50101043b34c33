"""``CalibratedPalettizer``: palettes of a torch model's weights for what its layers give, by samples without labels."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch
from coremltools.optimize.torch.palettization import PostTrainingPalettizerConfig as AnyConfig
from torch import nn

from mil_palettize.calibration.request import Calibration, held_out
from mil_palettize.calibration.solving import Solved, solved
from mil_palettize.encoding.encoder import Task
from mil_palettize.encoding.results import Declined
from mil_palettize.errors import ConfigError
from mil_palettize.expressions.weight_expr import Const, Sparse
from mil_palettize.program.forms import TYPED
from mil_palettize.torch.calibration.part import one_thread
from mil_palettize.torch.training.batch_norms import fuse_norms
from mil_palettize.torch.training.compression import (
    ChosenWeight,
    chosen_weights,
    pruned_mask,
    put_palette,
    stored_source,
)
from mil_palettize.torch.training.copies import copied
from mil_palettize.torch.training.mil_module import MILModule
from mil_palettize.torch.training.module_walk import ModuleWalk, WalkSettings, calls_of
from mil_palettize.torch.training.post_training import checked_config, checked_model, checked_report
from mil_palettize.torch.training.trained_palette import TrainedPalette
from mil_palettize.torch.training.weight_report import WeightsReport, weight_row

logger = logging.getLogger("mil_palettize")
_METHODS = ("reconstruct", "importance")


class CalibratedPalettizer:
    """The calibration of packages for torch models: the same choice among palettes, made by the same solvers.

    ``config``: a ``PostTrainingPalettizerConfig``, ours or coremltools'; None for its defaults. ``fuse_batch_norm``: as
    of ``PostTrainingPalettizer``.

    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
    >>> config = PostTrainingPalettizerConfig.from_dict({"global_config": {"n_bits": 2}})
    >>> samples = [torch.randn(1, 32) for _ in range(40)]
    >>> CalibratedPalettizer(model, config).compress(samples)[0].weight.unique().numel()
    4
    """

    def __init__(self, model: nn.Module, config: AnyConfig | None = None, *, fuse_batch_norm: bool = True) -> None:
        self._model = checked_model(model)
        if isinstance(model, MILModule):
            raise ConfigError("a package is calibrated by palettize_package(..., calibration=Calibration(samples))")
        self._config = checked_config(config)
        self._fuse_batch_norm = fuse_batch_norm
        self._report: WeightsReport | None = None

    def compress(
        self,
        samples: Iterable[Any],
        *,
        method: str = "reconstruct",
        positions: int = 64,
        seed: int = 0,
        rounds: int = 15,
        inplace: bool = False,
    ) -> nn.Module:
        """The model (a copy without ``inplace``) with palettes for weights, which ``ct.convert`` writes as such.

        ``samples``: each a tensor, a tuple of the model's arguments, or a mapping of their names; every fifth is held
        out to choose by. ``method``, ``positions``, ``seed`` and ``rounds``: as of ``Calibration``. The model runs in
        eval mode, on one thread, about as often as it has weights for each sample.

        Where outputs on what was held out are better with plain palettes, all weights get these, which is logged.
        Raises as ``PostTrainingPalettizer.compress``, EvaluationError for samples that the model does not take and for
        NaN in them, ConfigError for what is no sample; the model stays as it is.
        """
        if method not in _METHODS:
            raise ConfigError(f"method is {method!r}; use one of {list(_METHODS)}")
        calls = calls_of(samples)
        named = [{"sample": call} for call in calls]
        asked = Calibration(named, method=method, positions=positions, seed=seed, rounds=rounds)
        model = copied(self._model)
        chosen = chosen_weights(model, self._config)
        if self._fuse_batch_norm:
            fuse_norms(model)
        modes = {name: module.training for name, module in model.named_modules()}
        like = copied(model.eval()).eval()
        with torch.no_grad(), one_thread():
            settings = WalkSettings(asked.positions, asked.seed, held_out(len(calls)))
            made = _solved(ModuleWalk(model, like, calls, settings), chosen, asked)
        if inplace:
            model = self._model
            if self._fuse_batch_norm:
                fuse_norms(model)
        else:
            for name, module in model.named_modules():
                module.training = modes[name]
        rows = {}
        for one, found in made:
            palette = TrainedPalette.of_expression(one.settings, found.encoded.expr)
            put_palette(model, one.place, palette)
            figures = found.encoded.calibration
            rows[one.place.full_name] = {
                **weight_row(like.get_parameter(one.place.full_name), palette),
                "method": "plain" if figures is None else figures.method,
                "output_db": None if figures is None else figures.after_db,
            }
        self._report = WeightsReport(rows)
        return model

    def report(self) -> WeightsReport:
        """Of each palettized weight: its error, its palette, how that was made, and the signal to noise of what its
        layer gives on samples held out (None without). Raises PlanError before :meth:`compress`."""
        return checked_report(self._report)


def _solved(walk: ModuleWalk, chosen: list[ChosenWeight], asked: Calibration) -> list[tuple[ChosenWeight, Solved]]:
    """Palettes in the order in which weights are read; those that rule one out are left, which is logged."""
    made = []
    for number, one in enumerate(sorted(chosen, key=lambda one: walk.order(one.place))):
        result = solved(_task(one), walk.findings(one.place, number), asked)
        if isinstance(result, Declined):
            logger.warning("weight '%s' is left as it is: %s", one.place.full_name, result.reason)
            continue
        made.append((one, result))
        walk.replace(one.place, torch.from_numpy(result.encoded.expr.decode()))
    if not walk.holds_out:
        return made
    calibrated = walk.noise()
    for one, result in made:
        walk.replace(one.place, torch.from_numpy(result.plain.expr.decode()))
    plain = walk.noise()
    if calibrated <= plain:
        return made
    logger.warning(
        "outputs on samples held out have %.3g of noise with plain palettes, %.3g with calibrated ones, which were "
        "given up", plain, calibrated,
    )  # fmt: skip
    return [(one, Solved(result.plain, result.plain)) for one, result in made]


def _task(one: ChosenWeight) -> Task:
    source = stored_source(one)
    mask, held = pruned_mask(one), None
    if mask is not None:
        values = source.read()
        held = Sparse(Const(values[values != 0]), mask)
    return Task(source, one.settings.specification(), TYPED, held)
