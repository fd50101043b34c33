"""The values of a constant where it stands, whatever its form: what it is stored as, and dense."""

from __future__ import annotations

import numpy as np

from mil_palettize.expressions.weight_expr import Const, WeightExpr
from mil_palettize.program.expression_reader import UnknownFormError, read_expression
from mil_palettize.program.sites import Site
from mil_palettize.program.store import Store
from mil_palettize.program.values import NUMPY_TYPES


def expression(site: Site, store: Store) -> WeightExpr | None:
    """What a constant is stored as; None for a form or type that is not decoded here. Raises BlobError."""
    if site.node is None:
        if site.value.type.tensorType.dataType not in NUMPY_TYPES:
            return None
        return Const(store.array(site.value, used_by=site.weight.key))
    try:
        return read_expression(site.op, site.node.sources, store, used_by=site.weight.key)
    except UnknownFormError:
        return None


def dense(site: Site, store: Store) -> np.ndarray | None:
    """The values a constant stands for; None for a form or type that is not decoded here. Raises BlobError."""
    expr = expression(site, store)
    return None if expr is None else expr.decode()
