"""Minibatch standard deviation: the discriminator sees how much a group of images varies.

Karras, Aila, Laine and Lehtinen 2018 (arXiv:1710.10196), section 3: a generator that makes one image again
and again is found out by it.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def group_size_for(batch: int, largest: int) -> int:
    """The largest group of at most `largest` images that divides a batch."""
    return next(size for size in range(min(batch, largest), 0, -1) if batch % size == 0)


def minibatch_std(
    x: Float[Tensor, "batch channel height width"], group_size: int
) -> Float[Tensor, "batch channel_and_one height width"]:
    """`x` with one more channel: the standard deviation over a group, averaged over channels and pixels.

    Images i, i + m, i + 2m, … of m groups are one group.
    """
    batch, _, height, width = x.shape
    size = group_size_for(batch, group_size)
    groups = x.unflatten(0, (size, batch // size))
    variance = (groups - groups.mean(0)).square().mean(0)
    std = (variance + 1e-8).sqrt().mean((1, 2, 3))
    return torch.cat([x, std.repeat(size).view(-1, 1, 1, 1).expand(-1, 1, height, width)], 1)
