"""K-means palettes of vectors. Finding the best one is NP-hard: this is a local optimum, the best of several starts.

1. Few enough distinct vectors are kept as they are.
2. Starts on few points, by greedy k-means++ and by merging more centers than needed (Ward) in turns. Of many pairs the
   points are the cells of a joint histogram, weighted by their counts: which start is good shows there as it does on
   all pairs, and not on a sample of them.
3. The best few breathe there: centers are taken from where they are worth least to where the error is largest, as long
   as that helps. One start that breathes is better than the best of dozens that do not.
4. Lloyd's steps on more points from the best; of many pairs on all of them or, where there are too many, on the cells
   of a finer histogram: independent of their number.
5. Lloyd's steps over all vectors, where the points were not all of them. Not only one or two: a sample with few points
   per entry fits them better than the rest (131,072 points for 256 entries of 4 cost 1 % of the error).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mil_palettize.algorithms.compiled.breathing import breathe
from mil_palettize.algorithms.compiled.coreset import coreset
from mil_palettize.algorithms.compiled.lloyd import STRIDE, assign, lloyd, move
from mil_palettize.algorithms.compiled.seeding import merge, scatter
from mil_palettize.algorithms.vector.pair_histogram import cell_means
from mil_palettize.algorithms.vector.vectors import VectorSet

_SAMPLE = 1 << 18  # vectors
_PAIRS = 1 << 16  # pairs from which a histogram is quicker, and sample that lays it out
_ALL = 1 << 18  # pairs up to which all of them are the points of the last steps
_ACROSS = 128, 256  # cells of the histograms in each direction, for starts and for the last steps
_WORK, _PAIRS_WORK = 1 << 22, 1 << 24  # points times centers times starts
_BREATHING = 8  # starts, at most
_STEPS = 6  # of Lloyd in each half of a breath
_TOLERANCE, _FINE = 3e-5, 1e-7  # relative gain of a step below which no more are made
_FEW_STEPS, _LAST_WORK = 60, 1 << 30  # of the last steps on pairs: at least, and points times centers times steps


@dataclass(frozen=True)
class _Points:
    """float64 (n, dim) and positive weights, (n,) or (n, dim)."""

    values: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    def some(self, size: int) -> _Points:
        """A coreset of at most ``size``; all of them if they are few."""
        if len(self) <= size:
            return self
        return _Points(*coreset(lambda: [(self.values, self.weights)], self.values.shape[1], size))

    def improve(self, centers: np.ndarray, steps: int, tolerance: float) -> tuple[float, np.ndarray]:
        """Lloyd's steps on ``centers``; gives the squared error and the points' centers, int32."""
        codes = np.empty(len(self), np.int32)
        return float(lloyd(self.values, self.weights, centers, codes, steps, tolerance)), codes

    def masses(self, codes: np.ndarray, count: int) -> np.ndarray:
        """The weights of the points of each of ``count`` centers, (count,) or (count, dim)."""
        columns = self.weights.reshape(len(self), -1).T
        found = [np.bincount(codes, column, minlength=count) for column in columns]
        return found[0] if self.weights.ndim == 1 else np.stack(found, axis=1)


def entries(vectors: VectorSet, nbits: int) -> np.ndarray:
    """At most ``2**nbits`` entries with a small squared error, float64 (k, dim); all distinct vectors if they fit."""
    k = 1 << nbits
    few = vectors.distinct(k)
    if few is not None:
        return few
    centers = (_of_pairs if vectors.dim == 2 and vectors.count > _PAIRS else _of_sample)(vectors, k)
    most = float(np.finfo(vectors.dtype).max)
    return np.clip(centers, -most, most)  # a center that lost its points may have moved too far


def _of_sample(vectors: VectorSet, k: int) -> np.ndarray:
    """Centers (k, dim) by way of a coreset, or of all vectors where they are few."""
    points = _Points(*vectors.sample(_SAMPLE))
    some = points.some(min(1 << 14, max(1 << 12, 64 * k)))
    centers = _best_starts(vectors, some, k, _WORK)[0]
    if len(points) >= 1 << 17:
        points.some(1 << 16).improve(centers, 60, _TOLERANCE)
    points.improve(centers, 60 if len(points) <= 1 << 17 else 30, _TOLERANCE)
    if vectors.count > _SAMPLE:
        _improve(vectors, centers, 15)
    return centers


def _of_pairs(vectors: VectorSet, k: int) -> np.ndarray:
    """Centers (k, 2) by way of joint histograms."""
    laid_out, all_ = vectors.sample(_PAIRS)[0], vectors.count <= _ALL
    some = _Points(*cell_means(vectors, laid_out, _ACROSS[0]))
    starts = _best_starts(vectors, some, k, _PAIRS_WORK)
    points = _Points(*(vectors.sample(_ALL) if all_ else cell_means(vectors, laid_out, _ACROSS[1])))

    steps = min(300, max(_FEW_STEPS, _LAST_WORK // (len(points) * k)))

    def finish(centers: np.ndarray) -> tuple[float, np.ndarray]:
        return points.improve(centers, steps, _TOLERANCE if steps <= _FEW_STEPS else _FINE)[0], centers

    finalists = starts[: 2 if all_ else 1]
    centers = min(vectors.pmap(finish, finalists), key=lambda result: result[0])[1]
    if not all_:
        _improve(vectors, centers, 1)
    return centers


def _best_starts(vectors: VectorSet, some: _Points, k: int, work: int) -> list[np.ndarray]:
    """Centers (k, dim) of the starts with the smallest errors on a few points, after they breathed there; the best one
    first.

    ``work``: about so many times a point is compared with a center in one step of all starts.
    """
    runs = min(256, max(2, work // (len(some) * k)))
    count = min(_BREATHING, max(1, work // 2 // (len(some) * k)))

    def start(run: int) -> tuple[float, np.ndarray]:
        centers = _start(some, k, run)
        return some.improve(centers, 25, 2e-4)[0], centers

    def breathed(found: tuple[float, np.ndarray]) -> tuple[float, np.ndarray]:
        centers, codes = found[1], np.empty(len(some), np.int32)
        return float(breathe(some.values, some.weights, centers, codes, max(1, k // 8), _STEPS)), centers

    found = sorted(vectors.pmap(start, range(runs)), key=lambda result: result[0])
    found = sorted(vectors.pmap(breathed, found[:count]), key=lambda result: result[0])
    return [centers for _, centers in found]


def _start(points: _Points, k: int, run: int) -> np.ndarray:
    """Start number ``run``: every other one by greedy k-means++, the rest by what is worth while for so many points."""
    many = max(4 * k, 64)
    if run % 2 == 0:
        return _scattered(points, k, run, 2 + int(np.log(k)))
    if run == 1 and len(points) <= 1 << 10:
        return _merged(points, k)
    if len(points) <= 2 * many:
        return _scattered(points, k, run, 1)
    centers = _scattered(points, many, run, 1)
    _, codes = points.improve(centers, 2, 0.0)
    return _merged(_Points(centers, points.masses(codes, many)), k)


def _scattered(points: _Points, k: int, run: int, trials: int) -> np.ndarray:
    centers = np.empty((k, points.values.shape[1]))
    scatter(points.values, points.weights, np.array([run], np.uint64), trials, centers)
    return centers


def _merged(points: _Points, k: int) -> np.ndarray:
    kept = np.empty((k, points.values.shape[1]))
    merge(points.values.copy(), points.weights.copy(), kept)
    return kept


def _improve(vectors: VectorSet, centers: np.ndarray, steps: int) -> None:
    """At most so many of Lloyd's steps over all vectors, and one more that ends at the means."""
    for left in range(steps, -1, -1):
        masses, sums, error = _totals(vectors, centers)
        gain = move(centers, masses, sums, STRIDE if left else 1.0)
        if left and gain <= _TOLERANCE * error:
            masses, sums, _ = _totals(vectors, centers)
            move(centers, masses, sums, 1.0)
            return


def _totals(vectors: VectorSet, centers: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Weights (k,) or (k, dim) and sums (k, dim) of all vectors nearest to each center, and the squared error."""

    def work(first: int, last: int) -> tuple[np.ndarray, np.ndarray, float]:
        of_each = vectors.weights(np.arange(0)).shape[1:]
        masses, sums, error = np.zeros((len(centers), *of_each)), np.zeros(centers.shape), 0.0
        for _, points, weights in vectors.windows(first, last):
            codes = np.empty(len(points), np.int32)
            error += assign(points, weights, centers, codes, masses, sums)
        return masses, sums, error

    parts = vectors.over_spans(work)
    return sum(part[0] for part in parts), sum(part[1] for part in parts), sum(part[2] for part in parts)
