"""What is asked for one weight of a torch module, checked and frozen, whatever config class it came in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.errors import ConfigError
from mil_palettize.expressions.legal_nbits import LEGAL_NBITS
from mil_palettize.torch.training.layout import Layout
from mil_palettize.torch.training.soft_kmeans import Softness

# Names of coremltools' two generations of configs -> that of the specification; None for entries of the weight.
_LUT_DTYPES = {
    None: None,
    "f32": None,
    "f16": None,
    "i8": "int8",
    "u8": "uint8",
    torch.int8: "int8",
    torch.uint8: "uint8",
}
_UNTRAINED = Softness(1e-4)  # coremltools' defaults
_MODES = ("dkm", "hard")
# Options of coremltools' DKM that would change the result and that nothing here does, with what they have to be.
_NOT_DONE = {
    "quantize_activations": False,
    "cluster_permute": None,
    "enforce_zero": False,
    "add_extra_centroid": False,
    "palett_lambda": 0.0,
    "percentage_palett_enable": 1.0,
    "prune_threshold": 1e-7,
    "zero_threshold": 1e-7,
}


@dataclass(frozen=True)
class WeightSettings:
    """One weight's palette: as in ``OpPalettizerConfig``, and how it is learned.

    ``axis``: of groups and vectors; ``output_axis``: of output channels, and so of scales. ``group_size``: None for one
    table. ``milestone``: calls of ``step`` after which one more begins it; 0: it begins at once.
    """

    nbits: int
    axis: int
    output_axis: int
    group_size: int | None = None
    cluster_dim: int = 1
    per_channel_scale: bool = False
    lut_dtype: str | None = None
    milestone: int = 0
    softness: Softness = _UNTRAINED

    @classmethod
    def of_specification(cls, asked: PaletteSpecification) -> WeightSettings:
        """Of a palette that was made already."""
        assert asked.nbits is not None
        return cls(
            nbits=asked.nbits,
            axis=asked.axis or 0,
            output_axis=asked.scale_axis or 0,
            group_size=asked.group_size,
            cluster_dim=asked.cluster_dim,
            per_channel_scale=asked.scale_axis is not None,
            lut_dtype=asked.lut_dtype,
        )

    @property
    def scale_axis(self) -> int | None:
        return self.output_axis if self.per_channel_scale else None

    def layout(self, shape: tuple[int, ...]) -> Layout:
        channels = shape[self.axis]
        return Layout(shape, self.axis, channels // (self.group_size or channels), self.cluster_dim)

    def specification(self) -> PaletteSpecification:
        """Of the palette that training begins with, and that goes without training."""
        return PaletteSpecification(
            mode="kmeans",
            nbits=self.nbits,
            allowed_nbits=LEGAL_NBITS,
            axis=self.axis,
            group_size=self.group_size,
            cluster_dim=self.cluster_dim,
            scale_axis=self.scale_axis,
            lut_dtype=self.lut_dtype,
        )


def weight_settings(config: Any, nbits: int, output_axis: int, where: str) -> WeightSettings:
    """Of a coremltools module config, whose ``channel_axis`` is 0 for output channels and 1 for input channels.
    ``nbits``: where it has none. ``where``: the weight's name, for errors.

    Raises ConfigError for values that are not allowed, and for options that nothing here does.
    """
    for name, value in _NOT_DONE.items():
        if getattr(config, name, value) != value:
            raise ConfigError(
                f"{where}: {name} is {getattr(config, name)!r}, which is not supported; leave it at {value!r}"
            )
    nbits = nbits if config.n_bits is None else config.n_bits
    if nbits not in LEGAL_NBITS:
        raise ConfigError(f"{where}: n_bits is {nbits!r}, allowed are {LEGAL_NBITS}")
    if config.lut_dtype not in _LUT_DTYPES:
        allowed = [name for name in _LUT_DTYPES if name is not None]
        raise ConfigError(f"{where}: lut_dtype is {config.lut_dtype!r}, allowed are {allowed}")
    cluster_dim = 1 if config.cluster_dim is None else config.cluster_dim
    if cluster_dim < 1:
        raise ConfigError(f"{where}: cluster_dim is {cluster_dim}, it is 1 for scalars, 2 or more for vectors")
    return WeightSettings(
        nbits=nbits,
        axis=output_axis if config.channel_axis == 0 else 1 - output_axis,
        output_axis=output_axis,
        group_size=config.group_size,
        cluster_dim=cluster_dim,
        per_channel_scale=bool(config.enable_per_channel_scale),
        lut_dtype=_LUT_DTYPES[config.lut_dtype],
        milestone=_milestone(config, where),
        softness=_softness(config, where),
    )


def misfit(settings: WeightSettings, shape: tuple[int, ...], pruned: bool) -> str:
    """Why a weight of ``shape`` cannot have such a palette, "" where it can. ``pruned``: its zeros have to stay."""
    if settings.axis >= len(shape):
        return f"its shape {list(shape)} has no axis {settings.axis}"
    if pruned and settings.cluster_dim > 1:
        return f"it is pruned, and zeros inside vectors of {settings.cluster_dim} would not stay zeros"
    channels = shape[settings.axis]
    for name, value in (("group_size", settings.group_size or channels), ("cluster_dim", settings.cluster_dim)):
        if channels % value:
            return f"{name} {value} does not divide its {channels} channels along axis {settings.axis}"
    if settings.group_size and settings.group_size % settings.cluster_dim:
        return f"cluster_dim {settings.cluster_dim} does not divide group_size {settings.group_size}"
    return ""


def too_small(settings: WeightSettings, shape: tuple[int, ...]) -> str:
    """Why tables are too large for a weight of ``shape``, which is no :func:`misfit`; "" where they are not."""
    points = settings.layout(shape).count
    if points >= 1 << settings.nbits:
        return ""
    return f"a table of {1 << settings.nbits} entries would stand for only {points} of its values"


def _milestone(config: Any, where: str) -> int:
    milestone = int(getattr(config, "milestone", 0))
    if milestone < 0:
        raise ConfigError(f"{where}: milestone is {milestone}, it is a number of steps, 0 or more")
    return milestone


def _softness(config: Any, where: str) -> Softness:
    if not hasattr(config, "palett_tau"):
        return _UNTRAINED
    mode, tau, rounds = config.palett_mode, config.palett_tau, config.kmeans_max_iter
    if mode not in _MODES:
        raise ConfigError(f"{where}: palett_mode is {mode!r}, allowed are {_MODES}")
    if not tau > 0.0:
        raise ConfigError(f"{where}: palett_tau is {tau}, it must be above 0")
    if rounds < 1:
        raise ConfigError(f"{where}: kmeans_max_iter is {rounds}, it must be 1 or more")
    return Softness(tau, rounds, hard=mode == "hard")
