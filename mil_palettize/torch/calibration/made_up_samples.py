"""Samples for calibration where there are none: as natural as the description of the model allows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mil_palettize.torch.calibration.dead_leaves import dead_leaves
from mil_palettize.torch.calibration.masks import kept_positions, mask_of
from mil_palettize.torch.calibration.natural_sound import features, sound
from mil_palettize.torch.evaluator.model_pipeline import Evaluated
from mil_palettize.torch.evaluator.module import MILModule
from mil_palettize.torch.features import GRAYSCALES
from mil_palettize.torch.made_up_inputs import plausible_inputs, table_sizes

_LEAST_SIDE = 8  # pixels of what is taken for an image
_DEVIATION = 0.27  # of dead leaves, about a mean of 0.5
_LEAST_SOUND = 400  # values in a row that are taken for a sound
_LEAST_FEATURES = 16
_STATES = ("state", "hidden", "cell", "cache", "memory")
_CHAIN = 16  # calls after which what was fed back begins anew
Arrays = dict[str, np.ndarray]


def natural_samples(module: Evaluated, count: int, seed: int) -> list[Arrays]:
    """``count`` samples for ``predict``, which are

    - dead leaves for images, and for arrays that have the shape of images of one or three channels (of mean 0 and
      deviation 1, as networks take them),
    - for a mask that hides positions, a first part that counts, from a quarter of them to all,
    - for token ids the more often the smaller they are, as words in a vocabulary,
    - for a long row of floats a sound; for other arrays of floats smooth noise, or magnitudes of spectra where the
      model gives NaN for numbers below 0,
    - for what an output of the same shape feeds back (states) what the network has come to in a few calls,

    and anything else as :func:`plausible_inputs` has it, from whose seed they come.
    """
    samples = plausible_inputs(module, count, seed)
    random = np.random.default_rng([seed, 1])
    sizes = table_sizes(module)
    masks = _masks(module, samples[0]) if isinstance(module, MILModule) and samples else {}
    returned = fed_back(module, samples[0]) if samples else {}
    state: Mapping[str, np.ndarray] = {}
    for number, sample in enumerate(samples):
        for name, array in sample.items():
            if name in masks:
                sample[name] = _mask(array, masks[name], random)
            elif name not in returned:
                made = _made(module, name, sizes.get(name), array, random)
                sample[name] = array if made is None else made
        if returned:
            started = number % _CHAIN > 0
            sample.update({name: state[name] if started else np.zeros_like(sample[name]) for name in returned})
            given = module.predict(sample)
            state = {name: np.asarray(given[output], sample[name].dtype) for name, output in returned.items()}
    return samples


def _made(
    module: Evaluated, name: str, rows: int | None, array: np.ndarray, random: np.random.Generator
) -> np.ndarray | None:
    kind: Any = module.features.inputs[name].type
    if kind.WhichOneof("Type") == "imageType":
        image = kind.imageType
        height, width = int(image.height) or 224, int(image.width) or 224
        gray = image.colorSpace in GRAYSCALES
        made = np.rint(dead_leaves(height, width, 1 if gray else 3, random) * 255).astype(np.uint8)
        return made[0] if gray else np.ascontiguousarray(made.transpose(1, 2, 0))
    if kind.WhichOneof("Type") not in ("multiArrayType", None):  # a function may have no description
        return None
    shape, dtype = array.shape, array.dtype
    if rows is not None:
        return np.minimum(rows * random.uniform(0.0, 1.0, shape) ** 3, rows - 1).astype(dtype)
    if dtype.kind != "f":
        return None
    if len(shape) == 4 and shape[1] in (1, 3) and min(shape[2:]) >= _LEAST_SIDE:
        images = [dead_leaves(shape[2], shape[3], shape[1], random) for _ in range(shape[0])]
        return ((np.stack(images) - 0.5) / _DEVIATION).astype(dtype)
    if max(shape, default=0) == math.prod(shape) >= _LEAST_SOUND:
        return sound(math.prod(shape), random).reshape(shape).astype(dtype)
    if max(shape, default=0) >= _LEAST_FEATURES:
        return features(shape, random, positive=bool((array >= 0).all())).astype(dtype)
    return None


def fed_back(module: Evaluated, sample: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Inputs of floats that an output is the next value of, with that output: one of the same shape whose name holds
    the input's, or the only one of that shape where the input is called a state or the like. Nothing where every input
    would be one."""
    given = {name: value for name, value in module.predict(sample).items() if isinstance(value, np.ndarray)}
    found = {}
    for name, array in sample.items():
        same = [other for other, value in given.items() if value.shape == array.shape]
        named = [other for other in same if name in other]
        alike = [other for other, own in sample.items() if own.shape == array.shape]
        called = any(word in name.lower() for word in _STATES)
        if array.dtype.kind == "f" and (len(named) == 1 or (called and len(same) == len(alike) == 1)):
            found[name] = (named if len(named) == 1 else same)[0]
    return found if len(found) < len(sample) and len(set(found.values())) == len(found) else {}


def _masks(module: MILModule, sample: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The input that hides positions, with its values for those that are hidden and those that count; {} for others
    than one of 0 and 1 with a row for each of a batch."""
    mask = mask_of(module.function)
    if mask is None or len(mask.inputs) != 1 or sample[mask.inputs[0]].ndim != 2:
        return {}
    (name,) = mask.inputs
    half = np.zeros_like(sample[name])
    half[:, : half.shape[1] // 2] = 1
    (kept,) = kept_positions(module, [module.features.tensors({**sample, name: half})])
    if kept is None or tuple(kept.shape) != half.shape:
        return {}
    return {name: np.array([0, 1] if (kept.numpy() == (half == 1)).all() else [1, 0], half.dtype)}


def _mask(array: np.ndarray, values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    rows, positions = array.shape
    lengths: Sequence[int] = random.integers(max(1, positions // 4), positions + 1, rows)
    counts = np.arange(positions) < np.asarray(lengths)[:, None]
    return values[counts.astype(np.int64)]
