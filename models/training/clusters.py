"""Groups in a table of features or embeddings, with an honest number of them, which may be one: no structure.

k-means is run for each k. Three things are asked of a k, and all are reported: how well its groups are separated
(silhouette), whether they come back on other halves of the data (stability: adjusted Rand index), and whether
the separation is more than a cloud without groups shows (a null of normal clouds with the same covariance). The
answer is the most stable k that beats the null (of equally stable ones the fewest groups); where there is none, one.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.training.errors import TrainingRefused

FloatArray = NDArray[np.float64]
STABLE = 0.7
LEVEL = 0.05
TIE = 0.02


@dataclass(frozen=True)
class Evidence:
    """What speaks for a number of groups.

    Parameters
    ----------
    stability
        Mean adjusted Rand index between the groups of two random halves, on what both were used to label.
    p
        Share of the null clouds whose silhouette is at least as high.
    """

    k: int
    silhouette: float
    stability: float
    p: float

    @property
    def holds(self) -> bool:
        return self.stability >= STABLE and self.p <= LEVEL


@dataclass(frozen=True, eq=False)
class Clusters:
    """The answer: ``k`` groups, a label a row (all 0 where ``k`` is 1), and the evidence for each k tried."""

    k: int
    labels: NDArray[np.int64]
    evidence: tuple[Evidence, ...]

    @property
    def sentence(self) -> str:
        """The answer in words."""
        if self.k == 1:
            return "no structure: no number of groups is both stable and better separated than a cloud without groups"
        best = next(each for each in self.evidence if each.k == self.k)
        return f"{self.k} groups: silhouette {best.silhouette:.2f}, stability {best.stability:.2f}, p {best.p:.3f}"


def find_clusters(features: FloatArray, *, ks: Sequence[int] = tuple(range(2, 9)), seed: int = 0, draws: int = 39) -> Clusters:
    """Groups among rows of ``features`` (rows, columns); columns are standardised, constant ones left out.

    Parameters
    ----------
    draws
        Null clouds; the smallest p is 1 / (draws + 1).

    Raises
    ------
    TrainingRefused
        Values that are not finite, or fewer than ten rows.
    """
    if features.ndim != 2 or len(features) < 10:
        raise TrainingRefused(f"{len(features)} rows are too few to find groups in; ten are needed")
    if not np.isfinite(features).all():
        row = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
        raise TrainingRefused(f"row {row + 1} of the features has values that are not finite")
    varying = features[:, features.std(axis=0) > 1e-12]
    none = np.zeros(len(features), dtype=np.int64)
    if not varying.shape[1]:
        return Clusters(1, none, ())
    points = _components((varying - varying.mean(axis=0)) / varying.std(axis=0))
    generator = np.random.default_rng(seed)
    tried = [k for k in ks if k <= len(points) // 4]
    with _one_thread():
        evidence = tuple(_evidence(points, k, generator, draws) for k in tried)
    holding = [each for each in evidence if each.holds]
    if not holding:
        return Clusters(1, none, evidence)
    stablest = max(each.stability for each in holding)
    best = min(each.k for each in holding if each.stability >= stablest - TIE)
    with _one_thread():
        return Clusters(best, _group(points, best, seed), evidence)


def _components(points: FloatArray) -> FloatArray:
    """Principal components that carry 95 % of the variance: what is left is mostly noise, in which distances drown."""
    left, weights, _ = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    carried = np.cumsum(weights**2) / np.sum(weights**2)
    count = min(int(np.searchsorted(carried, 0.95)) + 1, max(1, len(points) // 3))
    reduced: FloatArray = left[:, :count] * weights[:count]
    return reduced


def _evidence(points: FloatArray, k: int, generator: np.random.Generator, draws: int) -> Evidence:
    measured = _silhouette(points, _group(points, k, 0))
    covariance = np.atleast_2d(np.cov(points.T))
    clouds = (generator.multivariate_normal(np.zeros(points.shape[1]), covariance, len(points)) for _ in range(draws))
    higher = sum(_silhouette(cloud, _group(cloud, k, 0)) >= measured for cloud in clouds)
    return Evidence(k, measured, _stability(points, k, generator), (1 + higher) / (1 + draws))


def _group(points: FloatArray, k: int, seed: int) -> NDArray[np.int64]:
    labels: NDArray[np.int64] = _kmeans(k, seed).fit_predict(points).astype(np.int64)
    return labels


def _one_thread() -> AbstractContextManager[Any]:
    """Many small k-means: threads that wait for one another cost more than they give."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise TrainingRefused("finding groups needs scikit-learn: pip install 'dicom-node[training]'") from error
    limited: AbstractContextManager[Any] = threadpool_limits(1)
    return limited


def _kmeans(k: int, seed: int):  # type: ignore[no-untyped-def]
    from sklearn.cluster import KMeans

    return KMeans(n_clusters=k, n_init=5, random_state=seed)


def _silhouette(points: FloatArray, labels: NDArray[np.int64]) -> float:
    from sklearn.metrics import silhouette_score

    return float(silhouette_score(points, labels)) if len(set(labels.tolist())) > 1 else -1.0


def _stability(points: FloatArray, k: int, generator: np.random.Generator, repeats: int = 10) -> float:
    from sklearn.metrics import adjusted_rand_score

    scores = []
    for repeat in range(repeats):
        order = generator.permutation(len(points))
        halves = np.array_split(order, 2)
        labelled = [_kmeans(k, repeat).fit(points[half]).predict(points) for half in halves]
        scores.append(adjusted_rand_score(*labelled))
    return float(np.mean(scores))
