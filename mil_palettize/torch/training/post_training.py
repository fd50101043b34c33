"""``PostTrainingPalettizer``: the best palettes of a torch model's weights, without data."""

from __future__ import annotations

from coremltools.optimize.torch.palettization import PostTrainingPalettizerConfig as AnyConfig
from torch import nn

from mil_palettize.errors import ConfigError, PlanError
from mil_palettize.torch.training.batch_norms import fuse_norms
from mil_palettize.torch.training.compression import chosen_weights, compress
from mil_palettize.torch.training.config import PostTrainingPalettizerConfig
from mil_palettize.torch.training.copies import copied
from mil_palettize.torch.training.weight_report import WeightsReport


class PostTrainingPalettizer:
    """coremltools' ``PostTrainingPalettizer``, with the solver of packages: the same weights get the same palettes.

    ``config``: a ``PostTrainingPalettizerConfig``, ours or coremltools'; None for its defaults. ``fuse_batch_norm``:
    batch norms are fused into the convolutions before them first; else they stay, also in the package.

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
    >>> config = PostTrainingPalettizerConfig.from_dict({"global_config": {"n_bits": 2}})
    >>> PostTrainingPalettizer(model, config).compress()[0].weight.unique().numel()
    4
    """

    def __init__(self, model: nn.Module, config: AnyConfig | None = None, *, fuse_batch_norm: bool = True) -> None:
        self._model = checked_model(model)
        self._config = checked_config(config)
        self._fuse_batch_norm = fuse_batch_norm
        self._report: WeightsReport | None = None

    def compress(self, num_kmeans_workers: int = 1, inplace: bool = False) -> nn.Module:
        """The model (a copy without ``inplace``) with palettes for weights, which ``ct.convert`` writes as such.

        ``num_kmeans_workers``: threads. Raises ConfigError for wrong values and entries that no module is meant by,
        PlanError where no weight is chosen, AlgorithmError for NaN and infinite weights; the model stays as it is.
        """
        model = self._model if inplace else copied(self._model)
        chosen = chosen_weights(model, self._config)
        if self._fuse_batch_norm:
            fuse_norms(model)
        self._report = compress(model, chosen, {}, num_kmeans_workers)
        return model

    def report(self) -> WeightsReport:
        """Of each palettized weight: its error and its palette. Raises PlanError before :meth:`compress`."""
        return checked_report(self._report)


def checked_model(model: nn.Module) -> nn.Module:
    """Raise ConfigError for what is no module."""
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model is {type(model).__name__}, it must be a torch.nn.Module")
    return model


def checked_config(config: AnyConfig | None) -> AnyConfig:
    """The default one for None. Raises ConfigError for what is none."""
    found = PostTrainingPalettizerConfig() if config is None else config
    if not isinstance(found, AnyConfig):
        raise ConfigError(f"config is {type(config).__name__}, it must be a PostTrainingPalettizerConfig")
    return found


def checked_report(report: WeightsReport | None) -> WeightsReport:
    """Raise PlanError where there is none yet."""
    if report is None:
        raise PlanError("report() comes after compress()")
    return report
