"""Every way to part sorted values, and samples to part."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def costs(values: np.ndarray, weights: np.ndarray, dtype: type, candidates: np.ndarray | None = None) -> np.ndarray:
    """Of every cluster ``values[j:i]``, at [j, i]: with a center of ``dtype``, or among ``candidates``."""
    n = len(values)
    cost = np.full((n + 1, n + 1), np.inf)
    for j in range(n):
        d, w = values[j:] - values[j], weights[j:]  # moments about the cluster's own first value
        s0, s1, s2 = np.cumsum(w), np.cumsum(w * d), np.cumsum(w * d * d)
        if candidates is None and n <= 80:  # without cancellation
            c = (values[j] + s1 / s0).astype(dtype).astype(float)
            cost[j, j + 1 :] = np.tril(w[None] * (values[None, j:] - c[:, None]) ** 2).sum(axis=1)
        elif candidates is None:
            c = (values[j] + s1 / s0).astype(dtype).astype(float) - values[j]
            cost[j, j + 1 :] = s2 - 2 * c * s1 + c * c * s0
        else:
            squares = weights[j:, None] * (values[j:, None] - candidates[None]) ** 2
            cost[j, j + 1 :] = np.cumsum(squares, axis=0).min(axis=1)
    return cost


def brute_force(
    values: np.ndarray, weights: np.ndarray, most: int, dtype: type = np.float32, candidates: np.ndarray | None = None
) -> np.ndarray:
    """Smallest squared error of 0 .. ``most`` clusters by the plain dynamic program over all partitions: O(k n**2)."""
    cost = costs(values, weights, dtype, candidates)
    best = np.full(len(values) + 1, np.inf)
    best[0] = 0.0
    errors = [np.inf]
    for _ in range(most):
        best = (best[:, None] + cost).min(axis=0)
        errors.append(best[-1])
    return np.array(errors)


def nearest_error(values: np.ndarray, weights: np.ndarray, entries: np.ndarray) -> float:
    return float((weights * ((values[:, None] - entries[None]) ** 2).min(axis=1)).sum())


def symmetric(rng: np.random.Generator, n: int) -> np.ndarray:
    half = rng.standard_normal(n // 2 + 1)
    return np.concatenate([half, -half])


def clumps(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.integers(0, 12, n) * 1000.0 + rng.integers(0, 6, n)


SAMPLES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "integer grid": lambda rng, n: rng.integers(-40, 40, n).astype(float),
    "constant gaps": lambda rng, n: np.arange(n) * 0.1,
    "symmetric": symmetric,
    "geometric": lambda rng, n: np.concatenate([-(2.0 ** np.arange(n // 2)), 2.0 ** np.arange(n // 2)]),
    "offset": lambda rng, n: 100 + rng.uniform(-0.01, 0.01, n),
    "heavy tails": lambda rng, n: rng.standard_cauchy(n) ** 3,
    "clumps": clumps,
    "half lattice": lambda rng, n: rng.standard_normal(n).astype(np.float16).astype(float),
}
WEIGHTS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "one": lambda rng, n: np.ones(n),
    "counts": lambda rng, n: rng.integers(1, 5, n).astype(float),
    "floats": lambda rng, n: rng.random(n) + 1e-3,
    "wide": lambda rng, n: 10 ** rng.uniform(-3, 3, n),
}
