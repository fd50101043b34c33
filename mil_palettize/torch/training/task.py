"""What is to be trained of a package, and on what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mil_palettize.torch.evaluator.module import MILModule
from mil_palettize.torch.training.schedule import Schedule
from mil_palettize.torch.training.trained_palette import TrainedPalette


@dataclass(frozen=True)
class TrainingTask:
    """``samples``: tensors as :meth:`MILModule.run` takes them. ``palettes``: to be trained, by slot, with the dtypes
    that they are stored in; ``fixed``: arrays of weights that are palettized and stay so; ``biases``: slots of those
    that may be trained. The module stays as it is."""

    module: MILModule
    samples: Sequence[Mapping[str, Any]]
    palettes: Mapping[str, tuple[TrainedPalette, np.dtype]]
    fixed: Mapping[str, np.ndarray]
    biases: Sequence[str]
    schedule: Schedule
