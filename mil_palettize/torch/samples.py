"""Samples from files: inputs of a model as arrays by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mil_palettize.errors import EvaluationError
from mil_palettize.torch.array_files import Arrays, load_arrays
from mil_palettize.torch.evaluator.model_pipeline import Evaluated
from mil_palettize.torch.evaluator.module import PathLike
from mil_palettize.torch.features import CHANNELS
from mil_palettize.torch.made_up_inputs import default_shape


def read_samples(path: PathLike, module: Evaluated) -> list[Arrays]:
    """Samples of a ``.npz`` file that has an array for each input of the model: one, or with an axis more in front,
    several. Raises PackageError for a file that cannot be read, EvaluationError for one that does not fit."""
    arrays = load_arrays(Path(path))
    module.features.check_names(arrays)
    lacking = sorted(module.features.inputs.keys() - arrays.keys() - module.features.defaults.keys())
    if lacking:
        raise EvaluationError(f"{path} lacks the input {lacking[0]!r}; it has {sorted(arrays)}")
    several = {name for name, array in arrays.items() if array.ndim == _rank(module, name, array) + 1}
    if not several:
        return [arrays]
    counts = {name: len(arrays[name]) for name in several}
    if len(set(counts.values())) > 1 or min(counts.values()) < 1:
        raise EvaluationError(f"{path} has other numbers of samples for other inputs: {counts}")
    number = next(iter(counts.values()))
    return [{n: a[i] if n in several else a for n, a in arrays.items()} for i in range(number)]


def _rank(module: Evaluated, name: str, array: np.ndarray) -> int:
    """Axes of one sample."""
    kind = module.features.inputs[name].type
    if kind.WhichOneof("Type") == "imageType":
        return 3 if array.ndim > 2 and array.shape[-1] in CHANNELS else 2
    if kind.WhichOneof("Type") == "multiArrayType":
        return len(default_shape(kind.multiArrayType))
    return array.ndim
