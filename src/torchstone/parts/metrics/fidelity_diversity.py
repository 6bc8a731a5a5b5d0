"""Fidelity and diversity of samples in a feature space: Fréchet distance, precision and recall, coverage.

Each measure can be gamed by itself: the distance by copies of images, precision by a generator that
makes one good image, recall by noise. Read them together, and compare with what training images and an
untrained generator reach.
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from torchstone.errors import BadInput

Features = Float[Tensor, "count features"]

CHUNK_SIZE = 1000  # rows of the distance matrix in memory at a time
NUM_NEIGHBORS = 3  # of precision and recall, as in their paper


def frechet_distance(fake: Features, real: Float[Tensor, "others features"]) -> Float[Tensor, ""]:
    """‖μ − μ'‖² + tr(Σ + Σ' − 2 (Σ Σ')^½), with unbiased covariances, in float64.

    Heusel et al. 2017 (arXiv:1706.08500), equation 6; of Gaussians, Dowson and Landau 1982. The trace of
    the square root is the sum of the roots of the eigenvalues of Σ^½ Σ' Σ^½, a symmetric matrix, so that
    fewer images than features are no problem. The distance rises as the number of images falls: compare
    equal counts.

    Raises:
        BadInput: fewer than two images in a set.
    """
    (mean, cov), (mean_, cov_) = _mean_and_cov(fake), _mean_and_cov(real)
    values, vectors = torch.linalg.eigh(cov)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.mT
    cross = torch.linalg.eigvalsh(root @ cov_ @ root).clamp(min=0).sqrt().sum()
    distance = (mean - mean_).square().sum() + cov.trace() + cov_.trace() - 2 * cross
    return distance.clamp(min=0)  # rounding


def frechet_floor(real: Features, labels: Int64[Tensor, " count"]) -> Float[Tensor, ""]:
    """The Fréchet distance between two halves of the real images: what a generator as good as the data would
    have at half of their number.

    The halves are even and odd rows in the order of labels, so that each has half of every class.

    Raises:
        BadInput: fewer than four images.
    """
    order = labels.argsort(stable=True).to(real.device)
    return frechet_distance(real[order[::2]], real[order[1::2]])


def _mean_and_cov(features: Features) -> tuple[Tensor, Tensor]:
    if len(features) < 2:
        raise BadInput(f"a Fréchet distance needs at least 2 images in each set, not {len(features)}")
    x = features.double()
    return x.mean(0), x.mT.cov()


def precision_recall(
    fake: Features, real: Float[Tensor, "others features"], num_neighbors: int = NUM_NEIGHBORS
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The fraction of samples on the data manifold, and the fraction of data on the sample manifold.

    Kynkäänniemi et al. 2019 (arXiv:1904.06991), equations 1 and 2: a set's manifold is the union of balls
    around its members, each as wide as the distance to its `num_neighbors`-th nearest other member.

    Raises:
        BadInput: a set is not larger than `num_neighbors`.
    """
    if min(len(fake), len(real)) <= num_neighbors:
        raise BadInput(f"{num_neighbors} neighbors need sets of more than {num_neighbors} images")
    fake, real = fake.double(), real.double()
    return (
        inside_any_ball(fake, real, knn_radii(real, num_neighbors)).double().mean(),
        inside_any_ball(real, fake, knn_radii(fake, num_neighbors)).double().mean(),
    )


def knn_radii(features: Features, num_neighbors: int) -> Float[Tensor, " count"]:
    """Each member's distance to its `num_neighbors`-th nearest other member."""
    radii = []
    for first in range(0, len(features), CHUNK_SIZE):
        distances = torch.cdist(features[first : first + CHUNK_SIZE], features)
        rows = torch.arange(len(distances), device=distances.device)
        distances[rows, rows + first] = torch.inf  # to itself
        radii.append(distances.kthvalue(num_neighbors, 1).values)
    return torch.cat(radii)


def inside_any_ball(
    points: Float[Tensor, "points features"], centers: Features, radii: Float[Tensor, " count"]
) -> Bool[Tensor, " points"]:
    """Which points lie in at least one ball."""
    return torch.cat([(torch.cdist(p, centers) <= radii).any(1) for p in points.split(CHUNK_SIZE)])


def nearest_neighbor(points: Float[Tensor, "points features"], others: Features) -> Int64[Tensor, " points"]:
    """Index of the nearest one of `others` to each point."""
    return torch.cat([torch.cdist(p, others).argmin(1) for p in points.split(CHUNK_SIZE)])


def relative_variance(fake: Features, real: Float[Tensor, "others features"]) -> Float[Tensor, ""]:
    """Total variance of the samples over that of the data: tr Σ / tr Σ'. Near 0 all samples are alike."""
    return fake.double().var(0).sum() / real.double().var(0).sum()


def class_frequencies(labels: Int64[Tensor, " count"], num_classes: int) -> Float[Tensor, " classes"]:
    """Fraction of `labels` in each class."""
    return torch.bincount(labels, minlength=num_classes).double() / len(labels)


def covered_classes(
    fake: Float[Tensor, " classes"], real: Float[Tensor, " classes"], min_ratio: float = 0.1
) -> Bool[Tensor, " classes"]:
    """Which classes the samples cover: those with at least `min_ratio` of their frequency in the data."""
    return (fake >= min_ratio * real) & (real > 0)


def label_accuracy(labels: Int64[Tensor, " count"], predicted: Int64[Tensor, " count"]) -> Float[Tensor, ""]:
    """Fraction of samples that a classifier assigns to the label they were generated for."""
    return (labels == predicted).double().mean()
