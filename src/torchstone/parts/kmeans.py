"""k-means: the centers of clusters, each the mean of the rows that are nearest to it.

Stuart Lloyd, "Least Squares Quantization in PCM", IEEE Transactions on Information Theory 28(2), 1982; the
start by David Arthur and Sergei Vassilvitskii, "k-means++: The Advantages of Careful Seeding", SODA 2007.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from torchstone.errors import BadInput

CHUNK_SIZE = 8192  # rows whose distances are held at a time


class Clusters(NamedTuple):
    """Centers, the cluster of each row, and the mean squared distance of a row to its center."""

    centers: Float[Tensor, "clusters dim"]
    labels: Int64[Tensor, " rows"]
    inertia: float


def nearest(
    rows: Float[Tensor, "rows dim"], centers: Float[Tensor, "clusters dim"]
) -> tuple[Int64[Tensor, " rows"], Float[Tensor, " rows"]]:
    """The center nearest to each row, the first of several, and the squared distance to it."""
    norms, labels, distances = centers.square().sum(1), [], []
    for part in rows.split(CHUNK_SIZE):
        # ‖z‖² is the same for all centers
        least, index = torch.addmm(norms, part, centers.T, alpha=-2).min(1)
        labels.append(index)
        distances.append((least + part.square().sum(1)).clamp(min=0))
    return torch.cat(labels), torch.cat(distances)


def plus_plus(
    rows: Float[Tensor, "rows dim"], clusters: int, generator: torch.Generator
) -> Float[Tensor, "clusters dim"]:
    """k-means++: each center is a row drawn with probability proportional to its squared distance from the
    centers so far."""

    def pick(weights: Tensor) -> Tensor:
        # on the CPU, in float64: every device gets the same row
        u = torch.rand((), generator=generator, dtype=torch.float64)
        steps = weights.double().cpu().cumsum(0)
        index = torch.searchsorted(steps, u * steps[-1]).clamp(max=len(rows) - 1)
        return rows[index]

    centers = [pick(torch.ones(len(rows)))]
    distances = (rows - centers[0]).square().sum(1)
    for _ in range(clusters - 1):
        # where all rows are taken, any row serves
        weights = distances if float(distances.sum()) > 0 else torch.ones_like(distances)
        centers.append(pick(weights))
        distances = torch.minimum(distances, (rows - centers[-1]).square().sum(1))
    return torch.stack(centers)


@torch.no_grad()
def kmeans(
    rows: Float[Tensor, "rows dim"],
    clusters: int,
    *,
    generator: torch.Generator,
    iterations: int = 50,
    start: Float[Tensor, "clusters dim"] | None = None,
) -> Clusters:
    """Lloyd's algorithm, until no row changes its cluster or for so many iterations.

    A cluster that loses all of its rows goes to the row that is farthest from its own center.

    Args:
        generator: of the start, on the CPU.
        start: centers to begin with, by default those of k-means++.

    Raises:
        BadInput: fewer rows than clusters.
    """
    if not 1 <= clusters <= len(rows):
        raise BadInput(f"{len(rows)} rows have from 1 to {len(rows)} clusters, not {clusters}")
    centers = plus_plus(rows, clusters, generator) if start is None else start.clone()
    labels, distances = nearest(rows, centers)
    for _ in range(iterations):
        counts = torch.bincount(labels, minlength=clusters)
        sums = torch.zeros_like(centers).index_add_(0, labels, rows)
        centers = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centers)
        if empty := (counts == 0).nonzero()[:, 0].tolist():
            centers[empty] = rows[distances.topk(len(empty)).indices]
        before = labels
        labels, distances = nearest(rows, centers)
        if not empty and torch.equal(labels, before):
            break
    return Clusters(centers, labels, float(distances.double().mean()))
