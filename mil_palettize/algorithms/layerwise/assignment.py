"""Indices chosen for the error of the output: with compensation of what was rounded before, and by descent.

Sources: GPTQ (arXiv 2210.17323), here in the form of LDLQ (arXiv 2307.13304), and coordinate descent as in LNQ
(arXiv 2505.07004), both to the entries of given tables.
"""

from __future__ import annotations

import numpy as np

from mil_palettize.algorithms.compiled.jit import compiled, inlined
from mil_palettize.algorithms.layerwise.column_vectors import compensated_columns, descended_columns
from mil_palettize.algorithms.layerwise.form import Values
from mil_palettize.algorithms.layerwise.work import Work

_BLOCK = 128  # columns whose errors are handed on one by one; those behind them get the sum


@inlined
def _nearest(entries, spread, goal):  # type: ignore[no-untyped-def]
    """The entry (of (entries, vector)) that times ``spread`` is nearest to ``goal``; the first of several."""
    best, least = 0, np.inf
    for k in range(entries.shape[0]):
        distance = 0.0
        for v in range(entries.shape[1]):
            step = entries[k, v] * spread[v] - goal[v]
            distance += step * step
        if distance < least:
            best, least = k, distance
    return best


@compiled
def _assign_block(target, feedback, upper, columns, table, spread, kept, tables, indices, errors):  # type: ignore[no-untyped-def]
    """Indices of the columns ``columns``, in that order; ``feedback`` and ``errors`` (rows, vector, of the block):
    what errors of columns before ask for, and W* − W_q."""
    rows, vector = feedback.shape[0], feedback.shape[1]
    goal, scale = np.empty(vector), np.empty(vector)
    for r in range(rows):
        for c in range(len(columns)):
            j = columns[c]
            for v in range(vector):
                goal[v] = target[r, v, j] + feedback[r, v, c]
                scale[v] = spread[r, v, j]
            entries = tables[table[r, j]]
            if kept[r, j]:
                indices[r, j] = _nearest(entries, scale, goal)
            for v in range(vector):
                found = entries[indices[r, j], v] * scale[v] if kept[r, j] else 0.0
                error = target[r, v, j] - found
                errors[r, v, c] = error
                for after in range(c + 1, len(columns)):
                    feedback[r, v, after] += error * upper[c, after]


def compensated(work: Work, values: Values) -> None:
    """Fill ``work.indices``: column by column, the largest diagonal first, each to the entry nearest to what makes
    good the errors of the columns before."""
    if work.members.shape[1] > 1:
        compensated_columns(work, values)
        return
    count, rows, vector, columns = work.target.shape
    for g in range(count):
        order, upper = work.damped.compensation[g]
        feedback = np.zeros((rows, vector, columns))
        for start in range(0, columns, _BLOCK):
            stop = min(start + _BLOCK, columns)
            own = np.ascontiguousarray(feedback[:, :, start:stop])
            errors = np.empty(own.shape)
            _assign_block(
                work.target[g], own, np.ascontiguousarray(upper[start:stop, start:stop]), order[start:stop],
                work.table[g], work.spread[g], work.kept[g], values.tables, work.indices[g], errors,
            )  # fmt: skip
            if stop < columns:
                handed_on = errors.reshape(rows * vector, -1) @ np.ascontiguousarray(upper[start:stop, stop:])
                feedback[:, :, stop:] += handed_on.reshape(rows, vector, -1)


@compiled
def _descend(hessian, error, gradient, table, spread, kept, tables, indices):  # type: ignore[no-untyped-def]
    """One sweep over all elements of one matrix; returns how many indices changed."""
    rows, vector, columns = error.shape
    goal, scale, step = np.empty(vector), np.empty(vector), np.empty(vector)
    changed = 0
    for r in range(rows):
        for j in range(columns):
            if not kept[r, j]:
                continue
            weight = hessian[j, j]
            entries = tables[table[r, j]]
            before = indices[r, j]
            for v in range(vector):
                scale[v] = spread[r, v, j]
                goal[v] = entries[before, v] * scale[v] - gradient[r, v, j] / weight
            found = _nearest(entries, scale, goal)
            if found == before:
                continue
            gain = 0.0
            for v in range(vector):
                step[v] = (entries[found, v] - entries[before, v]) * scale[v]
                gain += step[v] * (weight * step[v] + 2.0 * gradient[r, v, j])
            if not gain < 0.0:
                continue
            indices[r, j] = found
            changed += 1
            for v in range(vector):
                error[r, v, j] += step[v]
                for i in range(columns):
                    gradient[r, v, i] += step[v] * hessian[j, i]
    return changed


def descended(work: Work, values: Values, sweeps: int) -> None:
    """Change ``work.indices`` one by one, each to the best entry while all others stay; never raises the objective."""
    if work.members.shape[1] > 1:
        descended_columns(work, values, sweeps)
        return
    for g in range(len(work.target)):
        for _ in range(sweeps):
            changed = _descend(
                work.hessian[g], work.error[g], work.gradient[g], work.table[g], work.spread[g], work.kept[g],
                values.tables, work.indices[g],
            )  # fmt: skip
            if not changed:
                break
