"""Samples for calibration where there are none: as natural as the description of the model allows."""

from __future__ import annotations

from typing import Any

import numpy as np

from mil_palettize.torch.calibration.dead_leaves import dead_leaves
from mil_palettize.torch.evaluator.model_pipeline import Evaluated
from mil_palettize.torch.features import GRAYSCALES
from mil_palettize.torch.made_up_inputs import default_shape, plausible_inputs, table_sizes

_LEAST_SIDE = 8  # pixels of what is taken for an image
_DEVIATION = 0.27  # of dead leaves, about a mean of 0.5


def natural_samples(module: Evaluated, count: int, seed: int) -> list[dict[str, np.ndarray]]:
    """``count`` samples for ``predict``: dead leaves for images, and for arrays that have the shape of images of one or
    three channels (of mean 0 and deviation 1, as networks take them); token ids the more often the smaller they are, as
    words in a vocabulary; anything else as :func:`plausible_inputs` has it, from whose seed they come."""
    samples = plausible_inputs(module, count, seed)
    random = np.random.default_rng([seed, 1])
    sizes = table_sizes(module)
    for sample in samples:
        for name in sample:
            made = _made(module, name, sizes.get(name), sample[name].dtype, random)
            if made is not None:
                sample[name] = made
    return samples


def _made(
    module: Evaluated, name: str, rows: int | None, dtype: np.dtype, random: np.random.Generator
) -> np.ndarray | None:
    kind: Any = module.features.inputs[name].type
    if kind.WhichOneof("Type") == "imageType":
        image = kind.imageType
        height, width = int(image.height) or 224, int(image.width) or 224
        gray = image.colorSpace in GRAYSCALES
        made = np.rint(dead_leaves(height, width, 1 if gray else 3, random) * 255).astype(np.uint8)
        return made[0] if gray else np.ascontiguousarray(made.transpose(1, 2, 0))
    shape = default_shape(kind.multiArrayType)
    if rows is not None:
        return np.minimum(rows * random.uniform(0.0, 1.0, shape) ** 3, rows - 1).astype(dtype)
    if len(shape) == 4 and shape[1] in (1, 3) and min(shape[2:]) >= _LEAST_SIDE and dtype.kind == "f":
        images = [dead_leaves(shape[2], shape[3], shape[1], random) for _ in range(shape[0])]
        return ((np.stack(images) - 0.5) / _DEVIATION).astype(dtype)
    return None
