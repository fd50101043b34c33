"""How much each weight's elements count for a network's answers, for ``importance`` and files of it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mil_palettize.calibration.request import Numbers
from mil_palettize.doors.calibration_samples import Refusals, check_call
from mil_palettize.errors import ConfigError, EvaluationError, PackageError, PlanError, memory_told
from mil_palettize.package.array_files import read_members
from mil_palettize.package.given_files import check_samples_exist
from mil_palettize.package.mlpackage import Package
from mil_palettize.package.whole_files import replacing_file
from mil_palettize.program.model import Model
from mil_palettize.program.site_values import dense
from mil_palettize.reports.counting import Count, counting
from mil_palettize.request.importance import WeightsImportance

Samples = Sequence[Mapping[str, Any]]
PathLike = str | os.PathLike[str]
_LEAST = 1e-12
_FACTS = "weights.json"  # a name that no array has
_IMPORTANCE = "a .npz file of arrays by name"
_LABELS_ADVICE = "save one whole number for each sample with numpy.save"
_IMPORTANCE_ADVICE = "give what mil-palettize sensitivity wrote, or arrays by names of weights saved with numpy.savez"


@memory_told()
def fisher_importance(
    source: PathLike,
    samples: Samples | Mapping[str, Samples] | PathLike | int = 64,
    *,
    labels: Sequence[int] | None = None,
    loss: Callable[[Mapping[str, Any], int], Any] | None = None,
    damping: float = 1.0,
    function: str | None = None,
    seed: int = 0,
    image_mean: Numbers | None = None,
    image_scale: Numbers | None = None,
    progress: bool | Count = False,
) -> dict[str, np.ndarray]:
    """Fisher information of a package's weights, as ``importance`` of ``palettize_package`` takes it.

    Args:
        source: a ``.mlpackage`` folder, which is only read.
        samples: as ``MLModel.predict`` takes them, by function or where they lie (see ``Calibration``), or how many are
            made up.
        labels: the right class of each, else labels are drawn from the network's own answers.
        loss: instead, a function of the outputs of a sample (tensors by name) and its number, to a tensor of one
            element.
        damping: times the mean of each weight's information is added to it: undamped it ruins palettes, and 1 is right
            for most networks.
        function: of a model with several; without it all that take the samples, where a weight that several hold counts
            for all.
        seed: of made-up samples and of drawn labels.
        image_mean: of pictures, as of ``Calibration``.
        image_scale: as above.
        progress: as of ``compare``; what is counted are samples, of each function.

    Returns:
        float32 arrays of the weights' shapes, by ``function/name``.

    Raises:
        ConfigError: for labels with a loss, a damping that is not finite and positive, samples fewer than 1, pipelines,
            and without torch.
        EvaluationError: for samples that the model does not take, labels of another number, and a loss that is no
            finite number or depends on no weight.
        PackageError: for a package that cannot be read.
        UnsupportedOpError: for ops that the evaluator does not know.

    >>> importance = fisher_importance("fixtures/conv_fp16_ios18.mlpackage", 2)
    >>> importance["main/head_weight"].shape
    (10, 320)
    """
    if not (damping > 0.0 and math.isfinite(damping)):
        raise ConfigError(f"damping is {damping}; give a finite number above 0, such as 1")
    if isinstance(samples, int) and samples < 1:
        raise ConfigError(f"samples is {samples}; give samples, or how many are to be made up, 1 or more")
    if labels is not None and loss is not None:
        raise ConfigError("labels and a loss exclude each other: the loss says what is right")
    Package.open(source)
    if isinstance(samples, str | os.PathLike):
        check_samples_exist(samples)
    from mil_palettize.torch.calibration.fisher import fisher
    from mil_palettize.torch.evaluator.module import MILModule
    from mil_palettize.torch.pixels import check_pictures, pixels_of

    pixels = pixels_of(image_mean, image_scale)
    check_pictures(pixels, samples)
    whole = MILModule.from_package(source, function)
    names = whole.functions if function is None else [whole.function_name]
    found, values = dict[str, np.ndarray](), dict[str, bytes]()
    refusals = Refusals(samples, names)
    for name in names:
        module = whole if name == whole.function_name else MILModule.from_package(source, name)
        try:
            given = _samples(samples, module, seed, pixels)
        except EvaluationError as error:
            refusals.add(name, error)
            continue
        ids, weights = module.weight_ids, module.weights
        with counting(progress) as count:
            information = fisher(module, given, labels=labels, loss=loss, seed=seed, count=count)
        for slot, array in information.items():
            found[ids[slot].key] = array
            values[ids[slot].key] = hashlib.sha256(weights[slot].detach().numpy().tobytes()).digest()
    return WeightsImportance((key, _damped(array, damping)) for key, array in _summed(found, values).items())


def _samples(given: Samples | Mapping[str, Samples] | PathLike | int, module: Any, seed: int, pixels: Any) -> Samples:
    """For one function. Raises EvaluationError where their first is of another."""
    from mil_palettize.torch.calibration.made_up_samples import natural_samples
    from mil_palettize.torch.function_inputs import inputs_of
    from mil_palettize.torch.samples import read_samples

    if isinstance(given, int):
        return natural_samples(module, given, seed)
    own = inputs_of(module.function_name, module.functions, given)
    read = read_samples(own, module, pixels=pixels) if isinstance(own, str | os.PathLike) else own
    for sample in read[:1]:
        check_call(module, sample)
    return read


def _summed(found: Mapping[str, np.ndarray], values: Mapping[str, bytes]) -> dict[str, np.ndarray]:
    """What functions share counts for all of them. ``values``: by which a weight is known again."""
    sums: dict[tuple[tuple[int, ...], bytes], np.ndarray] = {}
    for key, array in found.items():
        place = array.shape, values[key]
        sums[place] = sums[place] + array if place in sums else array
    return {key: sums[array.shape, values[key]] for key, array in found.items()}


def _damped(array: np.ndarray, damping: float) -> np.ndarray:
    """With a mean of 1 before it is damped; all alike where nothing depends on the weight."""
    mean = float(array.mean())
    relative = array / mean if mean > 0.0 else np.zeros(array.shape)
    return np.maximum(relative + damping, _LEAST).astype(np.float32)


def write_importance(path: PathLike, importance: Mapping[str, np.ndarray], source: PathLike) -> None:
    """As a ``.npz`` file, with shapes and a hash of the weights of ``source``, which it is of; one that was there is
    replaced when all is written. Raises PackageError where it cannot be written."""
    facts = {name: found[0] for name, found in _facts(source, importance).items()}
    with replacing_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(_FACTS), json.dumps(facts, ensure_ascii=False))
        for name, array in importance.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)


def read_importance(path: PathLike, source: PathLike) -> dict[str, np.ndarray]:
    """Of a ``.npz`` file, for the weights of ``source``.

    Raises PackageError for a file that is none, or holds what is called as no constant of the model; PlanError naming a
    weight that was another one when the file was written, of which arrays that somebody else saved say nothing.
    """
    members = read_members(Path(path), _IMPORTANCE, _IMPORTANCE_ADVICE)
    if isinstance(members, np.ndarray):
        raise PackageError(f"{path} is a single array; it must be {_IMPORTANCE}")
    told = _told(path, members.pop(_FACTS)) if _FACTS in members else {}
    found = {name: array for name, array in members.items() if isinstance(array, np.ndarray)}
    for name in members.keys() - found.keys():
        raise PackageError(f"{path} has a member {name!r} that is no array; it must be {_IMPORTANCE}")
    if not told:
        _check_named(path, found, source)
        return found
    _check_same(path, told, _facts(source, found))
    return WeightsImportance(found)


def _told(path: PathLike, text: object) -> dict[str, dict[str, Any]]:
    """What the file says of the weights it was written for. Raises PackageError for what nobody wrote."""
    try:
        told = json.loads(text if isinstance(text, bytes) else b"")
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict) or not all(_is_facts(facts) for facts in told.values()):
        raise PackageError(f"cannot read {path}: its {_FACTS} is damaged; run sensitivity again")
    return told


def _is_facts(facts: object) -> bool:
    if not isinstance(facts, dict) or facts.keys() != _Facts.__annotations__.keys():
        return False
    shape = facts["shape"]
    return isinstance(facts["sha256"], str) and isinstance(shape, list) and all(type(size) is int for size in shape)


@dataclass(frozen=True)
class _Facts:
    """By what a weight is known again. ``sha256``: of its values as float32."""

    shape: list[int]
    sha256: str


def _facts(source: PathLike, names: Collection[str]) -> dict[str, list[dict[str, Any]]]:
    """Of the weights of a package that are called so; a name may be that of several, in blocks."""
    found: dict[str, list[dict[str, Any]]] = {}
    with Model.open(source) as model:
        for site in model.survey().sites:
            array = dense(site, model.store) if site.weight.key in names else None
            if array is not None:
                digest = hashlib.sha256(np.ascontiguousarray(array, "<f4").tobytes())
                found.setdefault(site.weight.key, []).append(asdict(_Facts(list(array.shape), digest.hexdigest())))
    return found


def _check_named(path: PathLike, names: Collection[str], source: PathLike) -> None:
    with Model.open(source) as model:
        weights = [site.weight for site in model.survey().sites]
    known = {weight.key for weight in weights} | {weight.name for weight in weights}
    for name in names:
        if name not in known:
            raise PackageError(f"{path} has an array {name!r}, but {source} no such weight; {_IMPORTANCE_ADVICE}")


def _check_same(path: PathLike, told: Mapping[str, Any], found: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    for name, before in told.items():
        if name not in found or before in found[name]:  # names that the model has not are refused with all others
            continue
        now = found[name][0]
        other = "other values" if before["shape"] == now["shape"] else f"shape {before['shape']}, not {now['shape']},"
        raise PlanError(f"weight {name!r} had {other} when {path} was written; run sensitivity on this package")


def read_labels(path: PathLike) -> list[int]:
    """Of a ``.npy`` file of whole numbers, or a ``.npz`` file of one such array. Raises PackageError for a file that is
    none."""
    found = read_members(Path(path), "a .npy file of whole numbers", _LABELS_ADVICE)
    array = found if isinstance(found, np.ndarray) else next(iter(found.values())) if len(found) == 1 else None
    if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype.kind not in "iu":
        raise PackageError(f"{path} is no list of whole numbers; {_LABELS_ADVICE}")
    return [int(label) for label in array]
