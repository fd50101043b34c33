"""Indices that stand for several columns of one row each: the steps of ``assignment.py`` with entries chosen for their
columns together, whose errors meet through H."""

from __future__ import annotations

import numpy as np

from mil_palettize.algorithms.compiled.jit import compiled
from mil_palettize.algorithms.layerwise.form import Values
from mil_palettize.algorithms.layerwise.products import cholesky
from mil_palettize.algorithms.layerwise.work import Work


@compiled
def _assign(target, upper, pivots, members, table, spread, kept, tables, indices):  # type: ignore[no-untyped-def]
    """All groups in order; columns of ``upper`` and ``pivots`` (H = U D Uᵀ) are in the order of ``members``."""
    size = members.shape[1]
    error, before, own = np.empty(members.size), np.empty(size), np.empty(size)
    for r in range(target.shape[0]):
        for k in range(members.shape[0]):
            start = k * size
            for c in range(size):
                before[c] = 0.0
                for i in range(start):
                    before[c] += error[i] * upper[i, start + c]
            best, least = 0, np.inf
            entries = tables[table[r, k]]
            for e in range(entries.shape[0] if kept[r, k] else 1):
                cost = 0.0
                for c in range(size):
                    j = members[k, c]
                    own[c] = (entries[e, c] * spread[r, j] if kept[r, k] else 0.0) - target[r, j]
                    felt = own[c] + before[c]
                    for i in range(c):
                        felt += own[i] * upper[start + i, start + c]
                    cost += pivots[start + c] * felt * felt
                if cost < least:
                    best, least = e, cost
            if kept[r, k]:
                indices[r, k] = best
            for c in range(size):
                j = members[k, c]
                error[start + c] = (entries[indices[r, k], c] * spread[r, j] if kept[r, k] else 0.0) - target[r, j]


def compensated_columns(work: Work, values: Values) -> None:
    """Fill ``work.indices``: group by group, that with the largest diagonal first, each with the entry that makes good
    the errors of the columns before best."""
    for g, own in enumerate(work.hessian):
        order = np.argsort(-np.diagonal(own)[work.members].sum(axis=1), kind="stable")
        members = np.ascontiguousarray(work.members[order])
        flat = members.reshape(-1)
        lower = cholesky(np.ascontiguousarray(own[np.ix_(flat[::-1], flat[::-1])]))
        assert lower is not None  # positive definite
        upper = np.ascontiguousarray(lower[::-1, ::-1])
        roots = np.diagonal(upper).copy()
        table, kept, indices = (np.ascontiguousarray(a[g][:, order]) for a in (work.table, work.kept, work.indices))
        _assign(
            work.target[g, :, 0], upper / roots, np.square(roots), members, table, work.spread[g, :, 0], kept,
            values.tables, indices,
        )  # fmt: skip
        work.indices[g][:, order] = indices


@compiled
def _descend(hessian, error, gradient, members, table, spread, kept, tables, indices):  # type: ignore[no-untyped-def]
    """One sweep over all indices of one matrix; returns how many changed."""
    size = members.shape[1]
    step, best_step = np.empty(size), np.empty(size)
    changed = 0
    for r in range(error.shape[0]):
        for k in range(members.shape[0]):
            if not kept[r, k]:
                continue
            entries, before = tables[table[r, k]], indices[r, k]
            best, least = before, 0.0
            for e in range(entries.shape[0]):
                gain = 0.0
                for c in range(size):
                    j = members[k, c]
                    step[c] = (entries[e, c] - entries[before, c]) * spread[r, j]
                    gain += 2.0 * gradient[r, j] * step[c] + hessian[j, j] * step[c] * step[c]
                    for i in range(c):
                        gain += 2.0 * hessian[j, members[k, i]] * step[c] * step[i]
                if gain < least:
                    best, least = e, gain
                    best_step[:] = step
            if best == before:
                continue
            indices[r, k] = best
            changed += 1
            for c in range(size):
                j = members[k, c]
                error[r, j] += best_step[c]
                for i in range(hessian.shape[0]):
                    gradient[r, i] += best_step[c] * hessian[j, i]
    return changed


def descended_columns(work: Work, values: Values, sweeps: int) -> None:
    """Change ``work.indices`` one by one, each to the best entry while all others stay; never raises the objective."""
    for g in range(len(work.target)):
        for _ in range(sweeps):
            changed = _descend(
                work.hessian[g], work.error[g, :, 0], work.gradient[g, :, 0], work.members, work.table[g],
                work.spread[g, :, 0], work.kept[g], values.tables, work.indices[g],
            )  # fmt: skip
            if not changed:
                break
