"""Kernel density estimation: a small Gaussian on every point (Rosenblatt 1956, Parzen 1962)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

ROWS = 500  # points that are looked at together


def log_kernel_density(
    x: Float[Tensor, "count numbers"], points: Float[Tensor, "others numbers"], bandwidth: float
) -> Float[Tensor, " count"]:
    """log (1/n) Σ N(x; point, bandwidth² I), in nats."""
    scaled, numbers = points / bandwidth, x.shape[1]
    constant = numbers * math.log(bandwidth * math.sqrt(2 * math.pi)) + math.log(len(points))
    parts = [
        torch.logsumexp(-0.5 * torch.cdist(rows / bandwidth, scaled).square(), 1) for rows in x.split(ROWS)
    ]
    return torch.cat(parts) - constant
