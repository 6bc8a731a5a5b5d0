"""Straight lines between latents, for the pictures of every model that has an encoder."""

import torch
from jaxtyping import Float
from torch import Tensor


def latent_paths(
    first: Float[Tensor, "count numbers"], last: Float[Tensor, "count numbers"], columns: int
) -> Float[Tensor, "rows numbers"]:
    """From each of `first` to the same row of `last` in so many points, both ends included; row by row."""
    weight = torch.linspace(0, 1, columns, device=first.device, dtype=first.dtype)[None, :, None]
    weight = weight.expand(len(first), -1, first.shape[1])
    return torch.lerp(first[:, None], last[:, None], weight).flatten(0, 1)
