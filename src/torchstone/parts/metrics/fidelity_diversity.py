"""How near samples are to data, in a space of features: distance, precision and recall, coverage.

Each measure can be flattered by itself: a distance by pictures that are copied, precision by a
generator that makes one good picture, recall by noise. They are meant to be read together, beside what
training pictures and an untrained generator reach.
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from torchstone.errors import BadInput

Features = Float[Tensor, "count features"]

ROWS = 1000  # whose distances to all others are held at a time
NEIGHBOURS = 3  # of precision and recall, as in their paper


def frechet(made: Features, real: Float[Tensor, "others features"]) -> Float[Tensor, ""]:
    """‖μ − μ'‖² + tr(Σ + Σ' − 2 (Σ Σ')^½), with unbiased covariances, in float64.

    Heusel et al. 2017 (arXiv:1706.08500), equation 6; of Gaussians, Dowson and Landau 1982. The square
    root's trace is the sum of the roots of the eigenvalues of Σ^½ Σ' Σ^½, a symmetric matrix, so that
    fewer pictures than features do no harm. It rises as there are fewer pictures: compare like counts.

    Raises:
        BadInput: fewer than two pictures on a side.
    """
    (mean, cov), (mean_, cov_) = _moments(made), _moments(real)
    values, vectors = torch.linalg.eigh(cov)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.mT
    cross = torch.linalg.eigvalsh(root @ cov_ @ root).clamp(min=0).sqrt().sum()
    apart = (mean - mean_).square().sum() + cov.trace() + cov_.trace() - 2 * cross
    return apart.clamp(min=0)  # rounding


def _moments(features: Features) -> tuple[Tensor, Tensor]:
    if len(features) < 2:
        raise BadInput(f"a distance between sets needs two pictures or more, not {len(features)}")
    x = features.double()
    return x.mean(0), x.mT.cov()


def precision_recall(
    made: Features, real: Float[Tensor, "others features"], neighbours: int = NEIGHBOURS
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The share of samples that lie within the data, and of the data that lie within the samples.

    Kynkäänniemi et al. 2019 (arXiv:1904.06991), equations 1 and 2: a set reaches as far as balls around
    its members, each as wide as the distance to its `neighbours`-th nearest other one.

    Raises:
        BadInput: a set is not larger than `neighbours`.
    """
    if min(len(made), len(real)) <= neighbours:
        raise BadInput(f"{neighbours} neighbours need sets of more than {neighbours} pictures")
    made, real = made.double(), real.double()
    return (
        within(made, real, radii(real, neighbours)).double().mean(),
        within(real, made, radii(made, neighbours)).double().mean(),
    )


def radii(features: Features, neighbours: int) -> Float[Tensor, " count"]:
    """Each member's distance to its `neighbours`-th nearest other one."""
    found = []
    for first in range(0, len(features), ROWS):
        apart = torch.cdist(features[first : first + ROWS], features)
        own = torch.arange(len(apart), device=apart.device)
        apart[own, own + first] = torch.inf
        found.append(apart.kthvalue(neighbours, 1).values)
    return torch.cat(found)


def within(
    points: Float[Tensor, "points features"], centres: Features, radius: Float[Tensor, " count"]
) -> Bool[Tensor, " points"]:
    """Which points lie in one ball or more."""
    return torch.cat([(torch.cdist(p, centres) <= radius).any(1) for p in points.split(ROWS)])


def nearest(points: Float[Tensor, "points features"], others: Features) -> Int64[Tensor, " points"]:
    """Which of `others` is nearest to each point."""
    return torch.cat([torch.cdist(p, others).argmin(1) for p in points.split(ROWS)])


def variety(made: Features, real: Float[Tensor, "others features"]) -> Float[Tensor, ""]:
    """How far samples lie from their mean, by how far data do: tr Σ / tr Σ'. Near 0, all are alike."""
    return made.double().var(0).sum() / real.double().var(0).sum()


def shares(labels: Int64[Tensor, " count"], classes: int) -> Float[Tensor, " classes"]:
    """Each class's share of `labels`."""
    return torch.bincount(labels, minlength=classes).double() / len(labels)


def modes(
    made: Float[Tensor, " classes"], real: Float[Tensor, " classes"], least: float = 0.1
) -> Bool[Tensor, " classes"]:
    """Which classes the samples cover: those that have at least `least` of their share of the data."""
    return (made >= least * real) & (real > 0)


def agreement(asked: Int64[Tensor, " count"], said: Int64[Tensor, " count"]) -> Float[Tensor, ""]:
    """The share of samples that a classifier takes for what was asked."""
    return (asked == said).double().mean()
