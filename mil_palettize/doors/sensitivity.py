"""How much each weight's elements count for a network's answers, for ``importance`` and files of it."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mil_palettize.errors import ConfigError, PackageError

PathLike = str | os.PathLike[str]
_LEAST = 1e-12


def fisher_importance(
    source: PathLike,
    samples: Sequence[Mapping[str, Any]] | PathLike | int = 64,
    *,
    labels: Sequence[int] | None = None,
    loss: Callable[[Mapping[str, Any], int], Any] | None = None,
    damping: float = 1.0,
    function: str | None = None,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Fisher information of a package's weights: float32 arrays by ``function/name``, as ``importance`` takes them.

    ``samples``: as ``MLModel.predict`` takes them, where they lie (see ``Calibration``), or how many are made up.
    ``labels``: the right class of each, else labels are drawn from the network's own answers; ``loss``: of the outputs
    of a sample (tensors by name) and its number, to a tensor of one element. ``damping``: times the mean of each
    weight's information is added to it: undamped it ruins palettes, and 1 is right for most networks. ``function``: of
    a model with several.

    Raises ConfigError for labels of another number, a damping that is not positive, pipelines, and without torch;
    EvaluationError for samples that the model does not take and for a loss that is no finite number; PackageError;
    UnsupportedOpError.
    """
    from mil_palettize.torch.calibration.fisher import fisher
    from mil_palettize.torch.calibration.made_up_samples import natural_samples
    from mil_palettize.torch.evaluator.module import MILModule
    from mil_palettize.torch.samples import read_samples

    if not damping > 0.0:
        raise ConfigError(f"damping is {damping}; give a number above 0, such as 1")
    module = MILModule.from_package(source, function)
    if isinstance(samples, int):
        given: Sequence[Mapping[str, Any]] = natural_samples(module, samples, seed)
    else:
        given = read_samples(samples, module) if isinstance(samples, str | os.PathLike) else samples
    found = fisher(module, given, labels=labels, loss=loss, seed=seed)
    ids = module.weight_ids
    return {ids[slot].key: _damped(array, damping) for slot, array in found.items()}


def _damped(array: np.ndarray, damping: float) -> np.ndarray:
    """With a mean of 1 before it is damped; all alike where nothing depends on the weight."""
    mean = float(array.mean())
    relative = array / mean if mean > 0.0 else np.zeros(array.shape)
    return np.maximum(relative + damping, _LEAST).astype(np.float32)


def write_importance(path: PathLike, importance: Mapping[str, np.ndarray]) -> None:
    """As a ``.npz`` file. Raises PackageError where it cannot be written."""
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for name, array in importance.items():
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
    except OSError as error:
        raise PackageError(f"cannot write {path}: {error.strerror or error}") from error


def read_importance(path: PathLike) -> dict[str, np.ndarray]:
    """Of a ``.npz`` file. Raises PackageError for a file that is none."""
    try:
        with np.load(Path(path), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        told = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise PackageError(f"cannot read {path}: {told}; it must be a .npz file of arrays by name") from error


def read_labels(path: PathLike) -> list[int]:
    """Of a ``.npy`` file of whole numbers. Raises PackageError for a file that is none."""
    try:
        array = np.load(Path(path), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        told = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise PackageError(f"cannot read {path}: {told}; it must be a .npy file of whole numbers") from error
    if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype.kind not in "iu":
        raise PackageError(f"{path} is no list of whole numbers, one for each sample, saved with numpy.save")
    return [int(label) for label in array]
