"""Palettes for the error of the output: against all assignments there are, and that no step raises its objective."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from mil_palettize.algorithms.layerwise.assignment import compensated, descended
from mil_palettize.algorithms.layerwise.form import UnsupportedLayoutError, Values, taken_apart
from mil_palettize.algorithms.layerwise.moments import Moments, Objective, importance, objective
from mil_palettize.algorithms.layerwise.reconstruction import reconstructed
from mil_palettize.algorithms.layerwise.refit import refitted_scales, refitted_tables
from mil_palettize.algorithms.layerwise.work import Work, arranged
from mil_palettize.algorithms.making import ArraySource, make_palette
from mil_palettize.algorithms.specification import PaletteSpecification
from mil_palettize.expressions.packed import Packed
from mil_palettize.expressions.weight_expr import Lut, Scale, Sparse, WeightExpr, lut_of

ALLOWED = (1, 2, 3, 4, 6, 8)


def moments(rows: int, columns: int, seed: int, matrices: int = 1) -> Moments:
    """Correlated inputs, and others a little off."""
    random = np.random.default_rng(seed)
    mix = random.normal(size=(matrices, columns, columns))
    x = random.normal(size=(matrices, 4 * columns, columns)) @ mix
    other = x + 0.2 * random.normal(size=x.shape)
    where = np.arange(matrices * rows * columns).reshape(matrices, rows, columns)
    return Moments(where, x.swapaxes(1, 2) @ x, other.swapaxes(1, 2) @ x)


def weight_of(shape: tuple[int, ...], seed: int, dtype: type = np.float16) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(4, size=shape).astype(dtype)


def palette(weight: np.ndarray, nbits: int, **options: object) -> WeightExpr:
    mask = options.pop("mask", None)
    specification = PaletteSpecification("kmeans", nbits, ALLOWED, **options)
    return make_palette(ArraySource("w", weight), specification, mask=mask).expr


def error(expr: WeightExpr, aim: Objective) -> float:
    """The objective of a palette, by its definition."""
    off = expr.decode().reshape(-1).astype(np.float64)[aim.where] - aim.target
    return float(np.einsum("grj,gjk,grk->", off, aim.hessian, off))


def least(target: np.ndarray, hessian: np.ndarray) -> float:
    """The least objective of all tables of two entries and all assignments to them."""
    found = np.inf
    for code in itertools.product((0.0, 1.0), repeat=target.size):
        second = np.array(code).reshape(target.shape)
        parts = np.stack([1.0 - second, second])
        normal = np.einsum("krj,ji,mri->km", parts, hessian, parts)
        right = np.einsum("krj,ji,ri->k", parts, hessian, target)
        entries = np.linalg.lstsq(normal, right, rcond=None)[0]
        off = np.tensordot(entries, parts, 1) - target
        found = min(found, float(np.einsum("rj,ji,ri->", off, hessian, off)))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_against_all_assignments_of_a_small_matrix(seed: int) -> None:
    """Two entries, two rows, five columns: never below the least there is, and far nearer to it than where it began."""
    weight = weight_of((2, 5), seed, np.float32)
    aim = objective(moments(2, 5, seed), weight.reshape(-1).astype(float), 0.1, asymmetric=True)
    begin = palette(weight, 1)
    made = reconstructed(begin, [aim], rounds=15)
    best = least(aim.target[0], aim.hessian[0])
    assert made.objective == pytest.approx(error(made.expr, aim), rel=1e-5)
    assert best * (1 - 1e-6) <= made.objective <= made.before
    assert made.objective - best <= 0.5 * (made.before - best)


@pytest.mark.parametrize("seed", range(4))
def test_descent_ends_where_no_single_index_is_better(seed: int) -> None:
    weight = weight_of((3, 6), seed, np.float32)
    aim = objective(moments(3, 6, seed), weight.reshape(-1).astype(float), 0.1, asymmetric=False)
    form, values = taken_apart(palette(weight, 1))
    work = arranged(aim, form, 1)
    work.put(values)
    descended(work, values, 100)
    reached = work.objective
    for place in np.ndindex(work.indices.shape):
        work.indices[place] ^= 1
        indices = values.indices.copy()
        indices[work.slot] = work.indices
        work.put(Values(values.tables, indices, values.scales))
        assert work.objective >= reached * (1 - 1e-9)
        work.indices[place] ^= 1


FORMS = {
    "per tensor": {},
    "groups of rows": {"axis": 0, "group_size": 2},
    "groups of columns": {"axis": 1, "group_size": 4},
    "a table for each channel": {"axis": 0, "group_size": 1},
    "a scale for each channel": {"scale_axis": 0},
    "an int8 table": {"lut_dtype": "int8"},
    "a uint8 table": {"lut_dtype": "uint8"},
    "vectors of two rows": {"cluster_dim": 2, "axis": 0},
    "vectors of two columns": {"cluster_dim": 2, "axis": 1},
    "vectors of two columns in groups": {"cluster_dim": 2, "axis": 1, "group_size": 4},
    "vectors of two rows with scales": {"cluster_dim": 2, "axis": 0, "scale_axis": 0},
    "vectors of two columns with scales": {"cluster_dim": 2, "axis": 1, "scale_axis": 0},
    "an int8 table of vectors of two columns": {"cluster_dim": 2, "axis": 1, "lut_dtype": "int8"},
}


def made(name: str, nbits: int, seed: int = 0) -> tuple[WeightExpr, list[Objective]]:
    weight = weight_of((8, 12), seed)
    aim = objective(moments(8, 12, seed), weight.reshape(-1).astype(float), 0.1, asymmetric=True)
    return palette(weight, nbits, **FORMS[name]), [aim]


@pytest.mark.parametrize("nbits", [1, 2, 3, 4])
@pytest.mark.parametrize("name", FORMS)
def test_every_form_gets_better_and_says_by_how_much(name: str, nbits: int) -> None:
    expr, aims = made(name, nbits)
    found = reconstructed(expr, aims, rounds=8)
    assert error(found.expr, aims[0]) == pytest.approx(found.objective, rel=1e-2)  # scales round once more
    assert found.objective < found.before
    assert type(found.expr) is type(expr)
    assert found.expr.nbytes == expr.nbytes
    assert found.expr.dtype == expr.dtype
    assert lut_of(found.expr).lut.shape == lut_of(expr).lut.shape


def prepared(name: str, nbits: int) -> tuple[Work, Values]:
    expr, aims = made(name, nbits)
    form, values = taken_apart(expr)
    work = arranged(aims[0], form, values.tables.shape[2])
    work.put(values)
    return work, values


@pytest.mark.parametrize("name", FORMS)
def test_no_step_raises_its_objective(name: str) -> None:
    work, values = prepared(name, 2)
    for _ in range(3):
        before = work.objective
        values = Values(refitted_tables([work], values, 4), values.indices, values.scales)
        work.put(values)
        assert work.objective <= before * (1 + 1e-12)
        before = work.objective
        values = Values(values.tables, values.indices, refitted_scales([work], values))
        work.put(values)
        assert work.objective <= before * (1 + 1e-12)
        before = work.objective
        descended(work, values, 1)
        assert work.objective <= before * (1 + 1e-12)
        indices = values.indices.copy()
        indices[work.slot] = work.indices
        values = Values(values.tables, indices, values.scales)
        kept = work.objective
        work.put(values)  # what was kept up to date is what it is from scratch
        assert work.objective == pytest.approx(kept, rel=1e-9)


@pytest.mark.parametrize("name", ["per tensor", "groups of rows", "groups of columns", "vectors of two rows",
                                  "vectors of two columns"])  # fmt: skip
def test_tables_of_enough_steps_are_those_of_least_squares(name: str) -> None:
    work, values = prepared(name, 2)
    found = refitted_tables([work], values, 200)
    columns = []
    for place in np.ndindex(values.tables.shape):
        unit = np.zeros(values.tables.shape)
        unit[place] = 1.0
        work.put(Values(unit, values.indices, values.scales))
        columns.append((work.error + work.target).reshape(-1))
    design = np.stack(columns, axis=1)
    lower = np.linalg.cholesky(work.hessian[0])
    rows = design.reshape(*work.target.shape, -1)
    weighted = np.einsum("jk,grvjm->grvkm", lower, rows).reshape(-1, design.shape[1])
    wanted = np.einsum("jk,grvj->grvk", lower, work.target).reshape(-1)
    best = float(np.sum((weighted @ np.linalg.lstsq(weighted, wanted, rcond=None)[0] - wanted) ** 2))
    work.put(Values(found, values.indices, values.scales))
    assert work.objective == pytest.approx(best, rel=1e-5)


def test_compensation_without_correlations_is_rounding_to_the_nearest() -> None:
    weight = weight_of((6, 9), 3, np.float32)
    where = np.arange(weight.size).reshape(1, 6, 9)
    diagonal = np.diag(np.random.default_rng(0).uniform(1, 2, 9))
    aim = objective(Moments(where, diagonal[None]), weight.reshape(-1).astype(float), 0.0, asymmetric=False)
    form, values = taken_apart(palette(weight, 2))
    work = arranged(aim, form, 1)
    work.put(values)
    compensated(work, values)
    nearest = np.abs(weight[..., None] - values.tables.reshape(-1)).argmin(axis=-1)
    assert np.array_equal(work.indices[0], nearest)


def test_the_target_makes_good_what_layers_before_lost() -> None:
    """W* is the minimum of ‖W X_f − W* X_q‖² + λ‖W* − W‖²: its gradient is zero."""
    weight, found = weight_of((3, 5), 0, np.float32).astype(float), moments(3, 5, 0)
    aim = objective(found, weight.reshape(-1), 0.1, asymmetric=True)
    damping = aim.hessian[0, 0, 0] - found.square[0, 0, 0]
    assert found.cross is not None
    slope = aim.target[0] @ found.square[0] - weight @ found.cross[0] + damping * (aim.target[0] - weight)
    np.testing.assert_allclose(slope, 0.0, atol=1e-8)


def test_masked_elements_stay_zero() -> None:
    weight = weight_of((8, 12), 1)
    kept = np.random.default_rng(2).uniform(size=weight.shape) < 0.5
    sparse = np.where(kept, weight, np.float16(0))
    expr = palette(sparse, 2, mask=Packed.pack(kept.astype(np.uint8), 1))
    aim = objective(moments(8, 12, 1), sparse.reshape(-1).astype(float), 0.1, asymmetric=True)
    found = reconstructed(expr, [aim], rounds=5)
    assert isinstance(found.expr, Sparse)
    assert not found.expr.decode()[~kept].any()
    assert found.objective < found.before
    assert error(found.expr, aim) == pytest.approx(found.objective, rel=1e-3)


def test_groups_of_a_convolution_share_a_table() -> None:
    weight = weight_of((8, 12), 4)
    grouped = moments(4, 12, 4, matrices=2)
    aim = objective(grouped, weight.reshape(-1).astype(float), 0.1, asymmetric=False)
    found = reconstructed(palette(weight, 2), [aim], rounds=5)
    assert found.objective < 0.9 * found.before
    assert error(found.expr, aim) == pytest.approx(found.objective, rel=1e-3)


def test_a_table_that_is_to_stay_does() -> None:
    weight = weight_of((8, 12), 5)
    aim = objective(moments(8, 12, 5), weight.reshape(-1).astype(float), 0.1, asymmetric=False)
    begin = palette(weight, 2)
    found = reconstructed(begin, [aim], rounds=5, tables=False)
    assert np.array_equal(lut_of(found.expr).table, lut_of(begin).table)
    assert found.objective < found.before


def test_columns_that_differ_from_row_to_row_are_refused() -> None:
    """Vectors of a weight that is read turned, and in another order for each row."""
    weight = weight_of((8, 12), 6)
    found = moments(8, 12, 6)
    mixed = found.where.copy()
    mixed[0, 1] = np.roll(mixed[0, 1], 1)
    aim = objective(replace(found, where=mixed), weight.reshape(-1).astype(float), 0.1, asymmetric=False)
    with pytest.raises(UnsupportedLayoutError):
        reconstructed(palette(weight, 2, cluster_dim=2, axis=1), [aim], rounds=1)


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (4, 6)])
@pytest.mark.parametrize("axis", [0, 1])
def test_vectors_along_either_axis_of_a_kernel(shape: tuple[int, ...], axis: int) -> None:
    """Columns that share an index need not lie side by side: the kernel's places are between two input channels."""
    weight = weight_of(shape, 3)
    rows, columns = shape[0], weight.size // shape[0]
    aim = objective(moments(rows, columns, 3), weight.reshape(-1).astype(float), 0.1, asymmetric=True)
    begin = palette(weight, 2, cluster_dim=2, axis=axis)
    made = reconstructed(begin, [aim], rounds=4)
    assert made.objective < 0.9 * made.before
    assert error(made.expr, aim) == pytest.approx(made.objective, rel=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_columns_together_end_where_no_index_is_better(seed: int) -> None:
    """Also what compensation assigns is, for a diagonal H, the nearest entry of all."""
    weight = weight_of((3, 6), seed, np.float32)
    flat = weight.reshape(-1).astype(float)
    aim = objective(moments(3, 6, seed), flat, 0.1, asymmetric=False)
    form, values = taken_apart(palette(weight, 2, cluster_dim=2, axis=1))
    work = arranged(aim, form, 2)
    work.put(values)
    descended(work, values, 100)
    kept = work.objective
    indices = values.indices.copy()
    indices[work.slot] = work.indices
    work.put(Values(values.tables, indices, values.scales))
    assert work.objective == pytest.approx(kept, rel=1e-9)
    for place in range(len(indices)):
        for other in range(4):
            changed = indices.copy()
            changed[place] = other
            work.put(Values(values.tables, changed, values.scales))
            assert work.objective >= kept * (1 - 1e-9)
    apart = Moments(aim.where, np.diag(np.random.default_rng(0).uniform(1, 2, 6))[None])
    work = arranged(objective(apart, flat, 0.0, asymmetric=False), form, 2)
    work.put(values)
    compensated(work, values)
    off = weight.reshape(3, 3, 1, 2) - values.tables[0]
    distance = np.sum(np.square(off) * np.diagonal(apart.square[0]).reshape(3, 1, 2), axis=-1)
    assert np.array_equal(work.indices[0], distance.argmin(axis=-1))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_vectors_against_all_assignments(seed: int, axis: int) -> None:
    """Two entries of two numbers, six indices: never below the least there is, and nearer to it than the beginning."""
    weight = weight_of((2, 6) if axis else (4, 3), seed, np.float32)
    aim = objective(moments(*weight.shape, seed), weight.reshape(-1).astype(float), 0.1, asymmetric=False)
    begin = palette(weight, 1, cluster_dim=2, axis=axis)
    made = reconstructed(begin, [aim], rounds=15)
    form, values = taken_apart(begin)
    work = arranged(aim, form, 2)
    best = np.inf
    for code in itertools.product((0, 1), repeat=values.indices.size):
        work.put(Values(values.tables, np.array(code, np.uint8), values.scales))
        tables = refitted_tables([work], Values(values.tables, np.array(code, np.uint8), values.scales), 50)
        work.put(Values(tables, np.array(code, np.uint8), values.scales))
        best = min(best, work.objective)
    assert best * (1 - 1e-5) <= made.objective <= made.before
    assert made.objective - best <= 0.8 * (made.before - best)


def test_singular_moments_are_damped_until_they_are_not() -> None:
    weight = weight_of((4, 6), 7)
    where = np.arange(24).reshape(1, 4, 6)
    for square in (np.zeros((1, 6, 6)), np.ones((1, 6, 6))):
        aim = objective(Moments(where, square), weight.reshape(-1).astype(float), 0.0, asymmetric=False)
        found = reconstructed(palette(weight, 1), [aim], rounds=3)
        assert np.isfinite(found.objective)
        assert found.objective <= found.before


def test_importance_is_the_diagonal_and_a_part_of_its_mean() -> None:
    found = moments(3, 4, 0)
    diagonal = np.tile(np.diagonal(found.square[0]), 3)
    np.testing.assert_allclose(importance([found], 12, 0.5), diagonal + 0.5 * diagonal.mean())


def test_scaled_palettes_keep_their_scales_type() -> None:
    expr, aims = made("a scale for each channel", 2)
    found = reconstructed(expr, aims, rounds=5).expr
    assert isinstance(found, Scale)
    assert isinstance(expr, Scale)
    assert found.scale.dtype == expr.scale.dtype
    assert not np.array_equal(found.scale, expr.scale)
    assert isinstance(found.data, Lut)
