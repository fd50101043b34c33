"""``MILModule`` as users have it: the evaluator's, trained by palettizers and written back into its package."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch.nn.utils import parametrize

from mil_palettize.errors import PlanError
from mil_palettize.expressions.weight_expr import WeightExpr
from mil_palettize.program.opsets.move import parse_target
from mil_palettize.program.weight import Weight, WeightId
from mil_palettize.rewriting.changed_biases import changeable
from mil_palettize.torch.calibration.biases import biases_of
from mil_palettize.torch.evaluator.module import MILModule as EvaluatedModule
from mil_palettize.torch.training.saved_package import Changes, save_changes
from mil_palettize.torch.training.trained_palette import TrainedPalette

PathLike = str | os.PathLike[str]
# What copies share: the package itself, and what was read of it.
_SHARED = frozenset({"_model", "_stage", "function", "features", "_nodes", "weight_facts", "_ids"})


class MILModule(EvaluatedModule):
    """One function of an ML Program, run and trained with torch: ``module(x=tensor)`` gives a dict of tensors,
    :meth:`predict` takes and gives what ``MLModel.predict`` does.

    Its parameters, all float32, are the constants that act as weights, and the biases of convolutions and linear layers
    that lie in a weight file. ``DKMPalettizer``, ``PostTrainingPalettizer`` and ``SKMPalettizer`` take it as any
    module: a config knows a weight by the name of its constant (``module_name_configs``), and by the torch layer that
    does what its op does (``module_type_configs``: ``nn.Conv2d``). ``features``: inputs and outputs as described.
    ``palettes``: those that a palettizer made, by the name of the parameter.

    >>> module = MILModule.from_package("fixtures/conv_fp16_ios18.mlpackage")
    >>> sum(parameter.numel() for parameter in module.parameters()) > 10000
    True
    >>> module.save_package("same.mlpackage")
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.palettes: dict[str, TrainedPalette] = {}

    def save_package(self, destination: PathLike, *, target: object = None, overwrite: bool = False) -> None:
        """Write the package that was opened, with the palettes that palettizers made and with the other parameters
        that are not what they were, rounded to their constants' types. All else stays as it is, byte for byte. What is
        written is decoded again, by the evaluator, before it takes its place.

        ``destination`` may be the package itself with ``overwrite``. ``target``: opset to move up to (``"iOS18"`` or a
        ``coremltools.target``). Raises ConfigError for a wrong one, PackageError where nothing can be written,
        PlanError for weights that are prepared and not finalized, that were changed after they were palettized, or that
        the package cannot hold, VerifyError where something else was written; nothing is written then.
        """
        opset = None if target is None else parse_target(target)
        changes = Changes(dict(self._new_palettes()), dict(self._new_values()))
        source, goal = self.package.path, Path(destination)
        save_changes(source, self.function_name, changes, goal, target=opset, overwrite=overwrite)

    def named_weights(self) -> Iterator[tuple[str, str, Weight]]:
        """Of each weight: the name of its constant, that of its parameter, and what is known of it."""
        for slot, weight in self.weight_ids.items():
            yield slot, self._slots[slot], self.weight_facts[weight]

    @property
    def _trained(self) -> dict[str, str]:
        """Names of parameters -> of the constants they stand for."""
        self._decode()
        return {name: slot for slot, name in self._slots.items() if self._is_trained(slot)}

    def _new_palettes(self) -> Iterator[tuple[WeightId, WeightExpr]]:
        for name, palette in self.palettes.items():
            slot = self._trained[name]
            if not np.array_equal(self._value(name), palette.values.numpy()):
                raise PlanError(f"weight {slot!r} was changed after it was palettized; palettize it again, then save")
            yield self.constant_id(slot), palette.expression(self.function.constants[slot].decode().dtype)

    def _new_values(self) -> Iterator[tuple[WeightId, np.ndarray]]:
        free = changeable(self._model)
        for name, slot in self._trained.items():
            if name in self.palettes:
                continue
            if parametrize.is_parametrized(self, name):
                raise PlanError(f"weight {slot!r} is prepared for training; save what finalize() gives")
            old, new = self.function.constants[slot].decode(), self._value(name)
            if np.array_equal(old.astype(np.float32), new, equal_nan=True):
                continue
            if self.constant_id(slot) not in free:
                raise PlanError(
                    f"{slot!r} was trained, and cannot be written: in the package it is compressed, lies in the "
                    "program itself, or shares its data; palettize it, or freeze it (requires_grad_(False))"
                )
            with np.errstate(over="ignore"):
                stored = new.astype(old.dtype)
            if not np.isfinite(stored).all():
                raise PlanError(f"{slot!r} was trained to values beyond {old.dtype}; lower the learning rate")
            yield self.constant_id(slot), stored

    def _value(self, name: str) -> np.ndarray:
        value: np.ndarray = getattr(self, name).detach().cpu().numpy()
        return value

    @cached_property
    def _biases(self) -> frozenset[str]:
        free = changeable(self._model)
        allowed = {slot for slot in self.function.constants if self.constant_id(slot) in free}
        return frozenset(biases_of(self, dict.fromkeys(self._ids, np.empty(0)), allowed))

    def _is_trained(self, slot: str) -> bool:
        return super()._is_trained(slot) or slot in self._biases

    def __deepcopy__(self, memo: dict[int, Any]) -> MILModule:
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        for name, value in self.__dict__.items():
            made.__dict__[name] = value if name in _SHARED else copy.deepcopy(value, memo)
        return made
