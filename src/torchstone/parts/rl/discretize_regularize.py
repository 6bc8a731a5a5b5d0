"""The discretize/regularize unit: a channel that is noisy and soft in training, and a bit when it is used."""

import torch
from jaxtyping import Float
from torch import Tensor


def discretize_regularize(
    message: Float[Tensor, "*batch"], noise: Float[Tensor, "*batch"] | None, sigma: float
) -> Float[Tensor, "*batch"]:
    """DRU(m) = σ(m + N(0, σ²)) in training, and 1 where m > 0, else 0, in use (Foerster et al. 2016,
    arXiv:1605.06676, section 5.2). Noise makes a sender push m far to either side, so that the bit loses
    little.

    Args:
        message: real numbers m of the sender.
        noise: standard normal, of training; None for the bit.
        sigma: standard deviation σ of the noise.
    """
    if noise is None:
        return (message > 0).to(message.dtype)
    return torch.sigmoid(message + sigma * noise)
