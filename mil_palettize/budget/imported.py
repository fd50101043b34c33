"""Recipes that other tools made for torch models, and which weights of a package they are of: by their values.

They give names of torch modules their bits, and are of the mixed-bit analysis of apple/ml-stable-diffusion
(``mixed_bit_compression_pre_analysis.py``, which keeps them under ``recipes``) and of argmaxtools
(``compress/palettize.py``: ``recipes.json``).
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mil_palettize.errors import ConfigError, PackageError, PlanError
from mil_palettize.expressions.legal_nbits import LEGAL_NBITS
from mil_palettize.request.near_names import near_names
from mil_palettize.text import format_count, format_some

_DENSE = (16, 32)  # bits of what stays as it is
_WEIGHT = ".weight"
_WHAT = "recipes of apple/ml-stable-diffusion's mixed-bit analysis, or of argmaxtools: names of torch modules and bits"


@dataclass(frozen=True)
class ModuleBits:
    """A recipe. ``nbits``: by names of torch modules, None for those that stay as they are."""

    name: str
    nbits: Mapping[str, int | None]


@dataclass(frozen=True)
class Matches:
    """``nbits``: of weights of the package, by their number, None for "leave alone"; ``unmatched``: why, and the names
    of modules that it is so of; ``notes``: what else a person should know."""

    nbits: Mapping[int, int | None]
    unmatched: Mapping[str, Sequence[str]]
    notes: tuple[str, ...] = ()


def read_recipe(path: str, name: str | None) -> ModuleBits:
    """That called ``name`` in the JSON file at ``path``, None for the only one.

    Raises PackageError for a file that cannot be read, ConfigError for one that holds no recipes, none of that name, or
    several and no ``name``.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise PackageError(f"cannot read {path}: {error.strerror}; it must hold {_WHAT}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no JSON ({error}); it must hold {_WHAT}") from error
    recipes = _recipes(path, data)
    if name is None and len(recipes) == 1:
        name = next(iter(recipes))
    if name is None:
        raise ConfigError(
            f"{path} holds {format_count(len(recipes), 'recipe')}: {format_some(list(map(repr, recipes)), 20)}; say "
            "which with name (--selected-recipe)"
        )
    if name not in recipes:
        known = format_some(list(map(repr, recipes)), 20)
        raise ConfigError(f"{path} holds no recipe {name!r}, but {known}{near_names(str(name), recipes)}")
    return ModuleBits(name, {module: _nbits(path, module, value) for module, value in recipes[name].items()})


def _recipes(path: str, data: Any) -> dict[str, Mapping[str, Any]]:
    if isinstance(data, Mapping) and isinstance(data.get("recipes"), Mapping):
        data = data["recipes"]
    if isinstance(data, Mapping) and data and all(isinstance(value, Mapping) for value in data.values()):
        return dict(data)
    if isinstance(data, Mapping) and data and not any(isinstance(value, Mapping | list) for value in data.values()):
        return {Path(path).stem: data}
    raise ConfigError(f"{path} holds no recipe; it must hold {_WHAT}")


def _nbits(path: str, module: str, value: Any) -> int | None:
    if value in _DENSE and not isinstance(value, bool):
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value not in LEGAL_NBITS:
        raise ConfigError(f"{path}: {module!r} has {value!r} bits, allowed are {LEGAL_NBITS}, and 16 or 32 to leave it")
    return value


def values_digest(array: np.ndarray) -> bytes:
    """Of the values in their order, rounded to fp16 as conversions round them; two weights of other shapes with the
    same values have the same."""
    with np.errstate(over="ignore"):
        plain = np.ascontiguousarray(array, np.float16)
    return hashlib.sha256(plain.reshape(-1).view(np.uint8).data).digest()


def match_modules(
    recipe: ModuleBits, tensors: Mapping[str, Callable[[], np.ndarray]], digests: Sequence[Sequence[bytes]]
) -> Matches:
    """Which weights of a package hold what modules of ``recipe`` do. ``tensors``: of the torch model, by names of its
    ``state_dict``; ``digests``: of the values of each weight of the package. A weight of two axes may be the other way
    round in one of them. Of modules with the same values the most bits count.

    Raises PlanError where none matches.
    """
    holders: dict[bytes, list[int]] = defaultdict(list)
    for number, own in enumerate(digests):
        for digest in own:
            holders[digest].append(number)
    found: dict[int, dict[str, int | None]] = defaultdict(dict)
    unmatched: dict[str, list[str]] = defaultdict(list)
    for module, nbits in recipe.nbits.items():
        name = _tensor_name(module, tensors)
        if name is None:
            unmatched["not in the checkpoint"].append(module)
            continue
        array = tensors[name]()
        numbers = holders[values_digest(array)] or (holders[values_digest(array.T)] if array.ndim == 2 else [])
        if not numbers:
            unmatched["no weight of the package that could get a palette holds its values"].append(module)
        for number in numbers:
            found[number][module] = nbits
    if not found:
        reasons = "; ".join(f"{why}: {format_some(names, 3)}" for why, names in unmatched.items())
        raise PlanError(
            f"nothing of recipe {recipe.name!r} matches ({reasons}); give the checkpoint that the package was made of"
        )
    notes = [
        f"modules {', '.join(asked)} have the same values and other bits: the most are taken"
        for asked in found.values()
        if len(set(asked.values())) > 1
    ]
    return Matches({number: _most(asked.values()) for number, asked in found.items()}, unmatched, tuple(notes))


def _most(values: Any) -> int | None:
    every = list(values)
    return None if None in every else max(every)


def _tensor_name(module: str, tensors: Mapping[str, object]) -> str | None:
    """Of its weight; of a checkpoint whose names begin otherwise, the only one that ends so."""
    name = module + _WEIGHT
    if name in tensors:
        return name
    ending = [other for other in tensors if other.endswith(f".{name}")]
    return ending[0] if len(ending) == 1 else None
