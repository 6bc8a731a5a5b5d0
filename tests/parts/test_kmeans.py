"""k-means against Lloyd's algorithm in plain loops; its start, empty clusters and refusals."""

import pytest
import torch

from torchstone.errors import BadInput
from torchstone.parts.kmeans import kmeans, nearest, plus_plus


def rows(count=60, dim=3, seed=0):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def generator():
    return torch.Generator().manual_seed(7)


def lloyd(points, centers, iterations):
    """Of lists of numbers."""
    labels = []
    for _ in range(iterations + 1):
        labels = [
            min(
                range(len(centers)),
                key=lambda k: sum((a - b) ** 2 for a, b in zip(x, centers[k], strict=True)),
            )
            for x in points
        ]
        if iterations == 0:
            break
        own = [
            [x for x, label in zip(points, labels, strict=True) if label == k] for k in range(len(centers))
        ]
        moved = [[sum(c) / len(c) for c in zip(*each, strict=True)] for each in own]
        if moved == centers:
            break
        centers = moved
    return centers, labels


def test_it_is_lloyds_algorithm():
    x = rows()
    start = x[:4].clone()
    found = kmeans(x, 4, generator=generator(), start=start)
    centers, labels = lloyd(x.tolist(), start.tolist(), 100)
    assert torch.allclose(found.centers, torch.tensor(centers, dtype=torch.float64), atol=1e-12)
    assert found.labels.tolist() == labels
    distances = (x - found.centers[found.labels]).square().sum(1)
    assert found.inertia == pytest.approx(float(distances.mean()), rel=1e-9)


def test_nearest_is_the_first_of_equals():
    centers = torch.tensor([[0.0, 0], [2, 0], [2, 0]])
    labels, distances = nearest(torch.tensor([[2.0, 1], [1, 0], [-3, 4]]), centers)
    assert labels.tolist() == [1, 0, 0]
    assert distances.tolist() == [1, 1, 25]


def test_the_start_is_spread_out():
    """Of groups that lie far apart k-means++ takes a row each; rows at random rarely do."""
    groups = torch.cat([rows(30, 2, seed=k) * 0.01 + 100 * k for k in range(5)])
    hits = 0
    for seed in range(20):
        centers = plus_plus(groups, 5, torch.Generator().manual_seed(seed))
        hits += len({round(float(c[0]) / 100) for c in centers}) == 5
    print(f"{hits} of 20")
    assert hits == 20


def test_no_cluster_stays_empty():
    x = torch.cat([rows(20, 2) * 0.1, torch.tensor([[50.0, 0], [0, 50]], dtype=torch.float64)])
    start = torch.tensor([[0.0, 0], [1000, 1000], [-1000, 0]], dtype=torch.float64)
    found = kmeans(x, 3, generator=generator(), start=start)
    print(found.centers, torch.bincount(found.labels, minlength=3))
    assert torch.bincount(found.labels, minlength=3).min() > 0


def test_rows_that_are_all_the_same():
    found = kmeans(torch.ones(5, 2), 3, generator=generator())
    assert found.inertia == 0


def test_more_clusters_than_rows_are_refused():
    with pytest.raises(BadInput, match="3 rows have from 1 to 3 clusters, not 4"):
        kmeans(rows(3), 4, generator=generator())
