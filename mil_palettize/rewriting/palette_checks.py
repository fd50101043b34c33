"""Whether expressions can stand in the place of the constants they are for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mil_palettize.errors import PlanError
from mil_palettize.expressions.packed import mask_of_vectors
from mil_palettize.expressions.weight_expr import Lut, Part, Scale, Sparse, WeightExpr, lut_of
from mil_palettize.program.chains import find_chains, palette_obstacle
from mil_palettize.program.forms import FORMS, Form, refusal
from mil_palettize.program.model import Model
from mil_palettize.program.site_values import expression
from mil_palettize.program.sites import Site
from mil_palettize.program.values import NUMPY_TYPES

_SHAPES = {
    "": "a look-up table, or one with a scale for each channel",
    "sparse": "its mask and a look-up table of the values that are left",
    "scaled": "its scales and a look-up table of the integers",
}


def check_palettes(model: Model, palettes: Mapping[Site, WeightExpr]) -> None:
    """Raise PlanError for the first of ``palettes`` that cannot be written in the place of its site."""
    sites = model.survey().sites
    known = set(sites)
    chains = {chain.site: palette_obstacle(chain) for chain in find_chains(sites)}
    for site, expr in palettes.items():
        key = site.weight.key
        if site not in known:
            raise PlanError(f"{key!r} is no constant of this model as it is now: take the sites of its own survey()")
        obstacle = _obstacle(site, chains)
        if obstacle:
            raise PlanError(f"{key!r} cannot become a palette: {obstacle}; leave it out")
        form = FORMS.get(site.weight.opset)
        if form is None:
            raise PlanError(f"{key!r} is of opset {site.weight.opset}, which can hold no palettes: move the model up")
        check_expression(model, site, expr, form)


def check_expression(model: Model, site: Site, expr: WeightExpr, form: Form) -> None:
    """Raise PlanError where ``expr`` is not of the kind, shape and dtype that the constant can be stored as."""
    _check_kind(site, expr, form)
    if site.weight.joint:
        _check_kept_parts(site, expr, model)


def _obstacle(site: Site, chains: Mapping[Site, str]) -> str:
    """What in the constant rules a palette out, "" when nothing does."""
    weight = site.weight
    if site.node is None or weight.form == "const" or weight.joint:
        return "" if weight.joint else weight.obstacle
    return chains.get(site, f"{weight.obstacle}, and other compressed constants are made from it")


def _check_kind(site: Site, expr: WeightExpr, form: Form) -> None:
    weight = site.weight
    if not _is_of_kind(expr, weight.joint, form):
        raise PlanError(f"{weight.key!r} can be stored as {_SHAPES[weight.joint]}; what is given for it is not that")
    dtype = NUMPY_TYPES[site.op.outputs[0].type.tensorType.dataType]
    if (expr.shape, expr.dtype) != (weight.shape, dtype):
        raise PlanError(
            f"{weight.key!r} is {dtype}{list(weight.shape)}, the expression for it {expr.dtype}{list(expr.shape)}; "
            "both have to be the same"
        )
    lut = lut_of(expr)
    refused = refusal(
        form,
        lut.indices.nbits,
        any(count > 1 for count in lut.groups),
        lut.vector > 1,
        scaled=isinstance(expr, Scale) and not weight.joint,
        quantized=isinstance(lut.lut, Scale),
        joint=bool(weight.joint),
    )
    if refused:
        raise PlanError(f"weight {weight.key!r} ({weight.opset}): {refused}")


def _is_of_kind(expr: WeightExpr, joint: str, form: Form) -> bool:
    if joint == "sparse":
        return isinstance(expr, Sparse) and _is_table(expr.data)
    if joint == "scaled" and form.tables_scaled_first:
        return isinstance(expr, Lut) and isinstance(expr.lut, Scale) and not expr.lut.affine
    if isinstance(expr, Scale):
        plain = not expr.affine and (joint == "scaled" or (expr.offset is None and expr.data.dtype == expr.dtype))
        return plain and _is_table(expr.data)
    return not joint and _is_table(expr)


def _is_table(expr: WeightExpr) -> bool:
    return isinstance(expr, Lut) and (isinstance(expr.lut, np.ndarray) or _is_scaled(expr.lut))


def _is_scaled(table: Part) -> bool:
    return isinstance(table, Scale) and not table.affine


def _check_kept_parts(site: Site, expr: WeightExpr, model: Model) -> None:
    """A mask and scales are left in the package as they are, and so have to be those of the expression."""
    held = expression(site, model.store)
    if isinstance(held, Sparse) and isinstance(expr, Sparse):
        lut = lut_of(expr)
        mask = mask_of_vectors(held.mask, lut.vector, lut.vector_axis or 0)
        same = np.array_equal(mask.unpack(), expr.mask.unpack())
    else:
        given = expr.lut if isinstance(expr, Lut) else expr
        assert isinstance(held, Scale)
        assert isinstance(given, Scale)
        same = all(_same_part(getattr(held, name), getattr(given, name)) for name in ("scale", "offset"))
    if not same:
        raise PlanError(
            f"{site.weight.key!r} keeps its own {'mask' if site.weight.joint == 'sparse' else 'scales and offsets'}, "
            "and the expression for it has others; give those it has"
        )


def _same_part(one: Part | None, two: Part | None) -> bool:
    if one is None or two is None:
        return one is two
    return np.array_equal(_numbers(one), _numbers(two))


def _numbers(part: Part) -> np.ndarray:
    return (part if isinstance(part, np.ndarray) else part.decode()).reshape(-1)
