"""Local response normalization: a map's response is damped by its neighbors' at the same location."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


def local_response_norm(
    n: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0
) -> nn.LocalResponseNorm:
    """b_i = a_i / (k + α Σ_j a_j²)^β over the n maps j around map i, as far as there are any.

    Krizhevsky, Sutskever and Hinton 2012, section 3.3, whose constants are the defaults; n is odd.
    torch's layer applies α to the mean of n squares, the paper to their sum: hence α·n.
    """
    return nn.LocalResponseNorm(n, alpha * n, beta, k)


def local_response_norm_by_definition(
    a: Float[Tensor, "b maps h w"], n: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0
) -> Float[Tensor, "b maps h w"]:
    """The same map by map, for checks: j runs from max(0, i − n/2) to min(N − 1, i + n/2)."""
    maps, normalized = a.unbind(1), []
    for i, own in enumerate(maps):
        neighbors = maps[max(0, i - n // 2) : min(len(maps) - 1, i + n // 2) + 1]
        normalized.append(own / (k + alpha * torch.stack(neighbors).square().sum(0)) ** beta)
    return torch.stack(normalized, 1)
