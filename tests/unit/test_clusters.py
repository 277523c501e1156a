"""Groups where there are some, and none where there are none."""

from __future__ import annotations

import numpy as np
import pytest

from models.training.clusters import find_clusters
from models.training.errors import TrainingRefused


def clouds(centres: list[tuple[float, float]], each: int = 25, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    generator = np.random.default_rng(seed)
    points = np.concatenate([generator.normal(centre, 1.0, (each, 2)) for centre in centres])
    return points, np.repeat(np.arange(len(centres)), each)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_separate_clouds_are_found_and_counted(count: int) -> None:
    from sklearn.metrics import adjusted_rand_score

    corners = [(0.0, 0.0), (9.0, 0.0), (0.0, 9.0), (9.0, 9.0)][:count] if count > 2 else [(0.0, 0.0), (9.0, 9.0)]
    points, truth = clouds(corners)
    found = find_clusters(points, ks=(2, 3, 4, 5), draws=19)
    assert found.k == count
    assert adjusted_rand_score(found.labels, truth) > 0.95
    assert found.sentence.startswith(f"{count} groups")


@pytest.mark.parametrize("seed", [0, 1])
def test_one_cloud_has_no_structure(seed: int) -> None:
    points, _ = clouds([(0.0, 0.0)], each=100, seed=seed)
    found = find_clusters(points, ks=(2, 3, 4), draws=19, seed=seed)
    assert found.k == 1
    assert not found.labels.any()
    assert found.sentence.startswith("no structure")
    assert [each.k for each in found.evidence] == [2, 3, 4]


def test_a_stretched_cloud_has_no_structure_either() -> None:
    points = np.random.default_rng(3).normal(0, 1, (100, 4)) @ np.array([[5, 0, 0, 0], [3, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    assert find_clusters(points, ks=(2, 3), draws=19).k == 1


def test_what_cannot_be_grouped_is_refused() -> None:
    with pytest.raises(TrainingRefused, match="3 rows are too few"):
        find_clusters(np.zeros((3, 2)))
    with pytest.raises(TrainingRefused, match="row 5 of the features"):
        find_clusters(np.where(np.arange(20)[:, None] == 4, np.nan, 1.0))
    assert find_clusters(np.ones((20, 2))).k == 1
