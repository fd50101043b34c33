"""``SKMPalettizer``: palettes of a torch model by how much its loss depends on each element of its weights."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from coremltools.optimize.torch.palettization import SKMPalettizerConfig as AnyConfig
from torch import nn

from mil_palettize.errors import ConfigError, EvaluationError, PackageError, PlanError
from mil_palettize.package.whole_files import check_place, replacing_file
from mil_palettize.torch.training.batch_norms import fuse_norms
from mil_palettize.torch.training.compression import ChosenWeight, chosen_weights, compress
from mil_palettize.torch.training.config import SKMPalettizerConfig
from mil_palettize.torch.training.copies import copied
from mil_palettize.torch.training.post_training import checked_model, checked_report
from mil_palettize.torch.training.weight_report import WeightsReport

logger = logging.getLogger("mil_palettize")
LossFunction = Callable[[nn.Module, Any], torch.Tensor]
_LEAST = 1e-12  # of an importance, relative to the mean


class SKMPalettizer:
    """coremltools' ``SKMPalettizer`` (sensitive k-means, arXiv 2306.07629), whose palettes are the weighted optimum.

    ``config``: an ``SKMPalettizerConfig``, ours or coremltools'; None for its defaults. ``fuse_batch_norm``: as of
    ``PostTrainingPalettizer``. ``damping``: times the mean of a weight's sensitivities, added to each; little of it
    ruins palettes, 0 is what was published.

    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
    >>> config = SKMPalettizerConfig.from_dict({"global_config": {"n_bits": 2}, "calibration_nsamples": 8})
    >>> samples = [torch.randn(1, 32) for _ in range(8)]
    >>> compressed = SKMPalettizer(model, config).compress(samples, lambda model, x: model(x).square().mean())
    >>> compressed[0].weight.unique().numel()
    4
    """

    def __init__(
        self,
        model: nn.Module,
        config: AnyConfig | None = None,
        *,
        fuse_batch_norm: bool = True,
        damping: float = 1.0,
    ) -> None:
        self._model = checked_model(model)
        self._config = SKMPalettizerConfig() if config is None else config
        if not isinstance(self._config, AnyConfig):
            raise ConfigError(f"config is {type(config).__name__}, it must be an SKMPalettizerConfig")
        if not (damping >= 0.0 and math.isfinite(damping)):
            raise ConfigError(f"damping is {damping}; give a finite number, 0 or more")
        self._fuse_batch_norm, self._damping = fuse_batch_norm, damping
        self._report: WeightsReport | None = None

    def compute_sensitivity(
        self,
        dataloader: Iterable[Any] | None,
        loss_fn: LossFunction | None,
        sensitivity_path: str | None = None,
        num_sensitivity_workers: int = 1,
        fsdp_auto_wrap_policy: Any = None,
    ) -> dict[str, torch.Tensor]:
        """By the names of trainable parameters, the sum over ``calibration_nsamples`` items of ``dataloader`` of the
        squared gradient of ``loss_fn(model, item)``, float32; saved to ``sensitivity_path`` if given.

        The model is run as it is, in its own mode; it stays as it is. One process does it: the last two arguments are
        coremltools', and other values than the defaults are logged. Raises EvaluationError for a loss that is no finite
        number or has no gradient, ConfigError for a dataloader without items and for what is none, PlanError where all
        parameters are frozen, PackageError, before that, where no file can be written.
        """
        if dataloader is None or loss_fn is None:
            raise ConfigError("give dataloader and loss_fn, or sensitivity_path")
        if not isinstance(dataloader, Iterable):
            raise ConfigError(f"dataloader is {type(dataloader).__name__}; give a list, or any iterable, of items")
        if not callable(loss_fn):
            raise ConfigError(f"loss_fn is {type(loss_fn).__name__}; give a function of the model and an item")
        if sensitivity_path is not None:
            check_place(sensitivity_path)
        if num_sensitivity_workers != 1 or fsdp_auto_wrap_policy is not None:
            logger.warning("sensitivities are computed by one process, without FSDP")
        model = copied(self._model)
        parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        if not parameters:
            raise PlanError("all parameters are frozen, and sensitivities need gradients; make weights trainable")
        sums = {name: torch.zeros_like(value, dtype=torch.float32) for name, value in parameters.items()}
        count = 0
        for item in islice(dataloader, self._config.calibration_nsamples):
            loss = loss_fn(model, item)
            if not (isinstance(loss, torch.Tensor) and loss.numel() == 1 and math.isfinite(float(loss.detach()))):
                raise EvaluationError(f"the loss of item {count} is no finite number")
            if not loss.requires_grad:
                raise EvaluationError(f"the loss of item {count} has no gradient; compute it by the model")
            found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            for total, gradient in zip(sums.values(), found, strict=True):
                if gradient is not None:
                    total += gradient.float().square()
            count += 1
        if not count:
            raise ConfigError("dataloader gives no items; sensitivities need some")
        result = {name: total.cpu() for name, total in sums.items()}
        if sensitivity_path is not None:
            with replacing_file(sensitivity_path) as file:
                torch.save(result, file)
        return result

    def compress(
        self,
        dataloader: Iterable[Any] | None = None,
        loss_fn: LossFunction | None = None,
        sensitivity_path: str | None = None,
        num_kmeans_workers: int = 1,
        num_sensitivity_workers: int = 1,
        inplace: bool = False,
        fsdp_auto_wrap_policy: Any = None,
    ) -> nn.Module:
        """The model (a copy without ``inplace``) with palettes for weights, which ``ct.convert`` writes as such.

        Sensitivities come from ``sensitivity_path`` (of :meth:`compute_sensitivity`, ours or coremltools'), or else of
        that method, which in a subclass may give None for a weight whose elements count alike. Raises as that, as
        ``PostTrainingPalettizer.compress``, and PackageError for a file that is none.
        """
        if sensitivity_path is not None:
            sensitivities = _loaded(sensitivity_path)
        else:
            sensitivities = self.compute_sensitivity(
                dataloader, loss_fn, None, num_sensitivity_workers, fsdp_auto_wrap_policy=fsdp_auto_wrap_policy
            )
        alike = {name for name, found in sensitivities.items() if found is None}
        model = self._model if inplace else copied(self._model)
        chosen = chosen_weights(model, self._config)
        gains = fuse_norms(model) if self._fuse_batch_norm else {}
        importances = {
            one.place.full_name: self._importance(one, sensitivities, gains.get(one.place.owner))
            for one in chosen
            if one.place.full_name not in alike
        }
        self._report = compress(model, chosen, importances, num_kmeans_workers)
        return model

    def report(self) -> WeightsReport:
        """Of each palettized weight: its error and its palette. Raises PlanError before :meth:`compress`."""
        return checked_report(self._report)

    def _importance(
        self, one: ChosenWeight, sensitivities: Mapping[str, torch.Tensor], gain: torch.Tensor | None
    ) -> np.ndarray:
        """Relative to the mean, of what is palettized: a fused weight's gradient is that of the weight by the gain."""
        name = one.place.full_name
        shape = tuple(one.place.value.shape)
        if name not in sensitivities or tuple(sensitivities[name].shape) != shape:
            raise ConfigError(
                f"there are no sensitivities of shape {list(shape)} for weight '{name}'; is it frozen? Leave it out, "
                "or compute them anew"
            )
        found = sensitivities[name].double().cpu()
        if gain is not None:
            square = gain.cpu().square()
            found = found / square.clamp_min(float(square.max()) * _LEAST)
        mean = float(found.mean())
        relative = found / mean if mean > 0.0 else torch.ones_like(found)
        importance: np.ndarray = (relative + self._damping).clamp_min(_LEAST).numpy().astype(np.float32)
        return importance


def _loaded(path: str) -> dict[str, torch.Tensor]:
    if not os.path.exists(path):
        raise PackageError(f"sensitivity_path {path!r} is not there")
    try:
        found = torch.load(path, weights_only=True)
    except Exception as error:  # whatever the file holds
        raise PackageError(f"sensitivity_path {path!r} is no file of compute_sensitivity") from error
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise PackageError(f"sensitivity_path {path!r} is no file of compute_sensitivity")
    return found
