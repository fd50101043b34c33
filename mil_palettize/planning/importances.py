"""Which importance goes to which weight, and where it has no effect."""

from __future__ import annotations

from collections.abc import Iterable

from mil_palettize.algorithms.registry import ALGORITHMS, weighs
from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.errors import PlanError
from mil_palettize.program.weight import Weight
from mil_palettize.request.importance import Importance
from mil_palettize.request.near_names import near_names
from mil_palettize.request.normalised import Requests
from mil_palettize.text import format_some


def importance_of(weight: Weight, requests: Requests) -> tuple[str, Importance] | None:
    """The entry that is for ``weight``, by ``function/name`` before the bare name. Raises PlanError where it does not
    fit the weight's shape."""
    keys = requests.importance_keys(weight.function, weight.name)
    if not keys:
        return None
    importance = requests.importance[keys[0]]
    if not importance.fits(weight.shape):
        raise PlanError(
            f"importance[{keys[0]!r}] has shape {list(importance.array.shape)}, weight {weight.key!r} has "
            f"{list(weight.shape)}; it needs as many axes, and each of its sizes has to divide the weight's"
        )
    return keys[0], importance


def without_importance(specification: PaletteSpecification) -> str:
    """Why a palette is made as if all elements counted the same, "" where it is not."""
    if weighs(specification) or ALGORITHMS[specification.mode].lossless:
        return ""
    return f"mode {specification.mode!r} chooses its entries without"


def refuse_unmatched(requests: Requests, weights: Iterable[Weight]) -> None:
    """Raise PlanError for an entry that is for none of ``weights``."""
    of_model = list(weights)
    met = {key for weight in of_model for key in requests.importance_keys(weight.function, weight.name)}
    for key in requests.importance:
        if key not in met:
            names = {weight.key if "/" in key else weight.name for weight in of_model}
            functions = format_some(sorted({weight.function for weight in of_model}))
            raise PlanError(f"importance[{key!r}] matches no constant in function {functions}{near_names(key, names)}")
