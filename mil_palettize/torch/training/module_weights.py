"""The weights of a torch model that palettes are for, and which entry of a config holds for each."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from mil_palettize.errors import AlgorithmError, ConfigError, PlanError
from mil_palettize.program.roles import is_weight_input
from mil_palettize.request.near_names import near_names
from mil_palettize.torch.training.mil_module import MILModule

logger = logging.getLogger("mil_palettize")
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# Layers that do what an op does with a weight of some rank, as configs know them; linear ones have no other rank.
_LAYERS: dict[tuple[str, int], type[nn.Module]] = {
    ("linear", 2): nn.Linear,
    ("matmul", 2): nn.Linear,
    ("gather", 2): nn.Embedding,
    **{("conv", rank): kind for rank, kind in enumerate(CONVOLUTIONS, 3)},
    **{("conv_transpose", rank): kind for rank, kind in enumerate(TRANSPOSED, 3)},
}
SUPPORTED = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED, nn.LayerNorm, nn.Embedding, nn.MultiheadAttention)


@dataclass(frozen=True)
class ModuleWeight:
    """A parameter of a module. ``module``, ``name``: what configs know it by (of attention the whole of it, of a
    package's weight a layer that does the same, and the constant's name); ``owner``: the module that has ``parameter``.
    ``axis``: of output channels."""

    name: str
    module: nn.Module
    owner_name: str
    owner: nn.Module
    parameter: str
    axis: int

    @property
    def full_name(self) -> str:
        """As ``named_parameters`` has it."""
        return f"{self.owner_name}.{self.parameter}" if self.owner_name else self.parameter

    @property
    def value(self) -> nn.Parameter:
        value: nn.Parameter = getattr(self.owner, self.parameter)
        return value


def check_usable(weight: ModuleWeight) -> None:
    """Raise PlanError for a weight that is computed from others, so that no palette can take its place, and for one
    without values; AlgorithmError for NaN and infinity, of which there is no palette."""
    name, value = weight.full_name, weight.value
    if parametrize.is_parametrized(weight.owner, weight.parameter):
        raise PlanError(
            f"weight '{name}' is parametrized already; remove that first (a prepared model: finalize it), or leave it "
            "out (module_name_configs: None)"
        )
    if not isinstance(value, nn.Parameter):
        raise PlanError(
            f"weight '{name}' is no parameter, a hook computes it; make it one first (torch.nn.utils.prune.remove, "
            "remove_weight_norm, or finalize of a pruner), or leave it out (module_name_configs: None)"
        )
    if value.is_meta:
        raise PlanError(f"weight '{name}' has no values (its device is meta); load them first")
    if not bool(torch.isfinite(weight.value).all()):
        raise AlgorithmError(
            f"weight '{weight.full_name}' has NaN or infinite values, which no palette can stand for; repair them, or "
            "leave it out (module_name_configs: None)"
        )


def module_weights(model: nn.Module) -> Iterator[ModuleWeight]:
    """All of a model, in the order of its modules; a module that occurs twice once.

    Raises PlanError for a lazy module that was not run yet, whose weight has no shape.
    """
    inner = {id(m.out_proj) for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
    for name, module in model.named_modules():
        if isinstance(module, MILModule):
            yield from _of_package(name, module)
        if not isinstance(module, SUPPORTED) or id(module) in inner:
            continue
        if isinstance(module, nn.MultiheadAttention):
            yield from _of_attention(name, module)
        elif getattr(module, "weight", None) is not None:  # a LayerNorm may have none
            if is_lazy(module.weight):
                raise PlanError(f"module '{name}' is lazy and has no weight yet; run the model once first")
            axis = 1 if isinstance(module, TRANSPOSED) else 0
            yield ModuleWeight(name, module, name, module, "weight", axis)


def _of_attention(name: str, module: nn.MultiheadAttention) -> Iterator[ModuleWeight]:
    packed = module.in_proj_weight is not None
    for parameter in ("in_proj_weight",) if packed else ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
        yield ModuleWeight(name, module, name, module, parameter, 0)
    inside = f"{name}.out_proj" if name else "out_proj"
    yield ModuleWeight(name, module, inside, module.out_proj, "weight", 0)


def _of_package(name: str, module: MILModule) -> Iterator[ModuleWeight]:
    for constant, parameter, weight in module.named_weights():
        reader = next(one for one in weight.consumers if is_weight_input(one.op_type, one.input_name))
        kind = _LAYERS.get((reader.op_type, len(weight.shape)))
        layer = nn.Module() if kind is None else nn.Module.__new__(kind)  # of which nothing but the type counts
        yield ModuleWeight(constant, layer, name, module, parameter, reader.channel_axis or 0)


def tell_ties(asked: Sequence[tuple[ModuleWeight, object]]) -> None:
    """Log where other settings (None: no palette) are asked for a weight than for the one that it is tied to."""
    first: dict[int, tuple[str, object]] = {}
    for weight, settings in asked:
        if settings is not None:
            first.setdefault(id(weight.value), (weight.full_name, settings))
    for weight, settings in asked:
        name, own = first.get(id(weight.value), (weight.full_name, settings))
        if settings != own:
            logger.warning(
                "weight '%s' is tied to '%s' and gets its palette, not what is asked for it", weight.full_name, name
            )


def check_keys(model: nn.Module, config: Any) -> None:
    """Raise ConfigError for an entry of ``config`` that no module of ``model`` is meant by."""
    names = [*dict(model.named_modules()), *(weight.name for weight in module_weights(model))]
    for key in config.module_name_configs:
        try:
            found = [name for name in names if re.fullmatch(key, name)]
        except re.error as error:
            raise ConfigError(f"module_name_configs has {key!r}, which is no regular expression: {error}") from error
        if not found:
            raise ConfigError(f"module_name_configs has {key!r}, which no module is called{near_names(key, names)}")
    defaults = type(config)().module_type_configs  # which name all types, whatever the model has
    kinds: set[Any] = {type(module) for module in model.modules()} | {type(one.module) for one in module_weights(model)}
    for key, entry in config.module_type_configs.items():
        if key in defaults and entry == defaults[key]:
            continue
        if key not in kinds and key not in {kind.__name__ for kind in kinds}:
            told = key if isinstance(key, str) else key.__name__
            raise ConfigError(f"module_type_configs has {told}, but the model has no module of this type")
