"""Quantiles as forecasts: the loss whose minimum they are, and what is asked of them."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def pinball(
    told: Float[Tensor, "*batch quantiles"],
    actual: Float[Tensor, "*batch"],
    levels: Sequence[float],
) -> Float[Tensor, "*batch quantiles"]:
    """The quantile loss (Koenker & Bassett 1978, Econometrica 46:33, equation 2.1) of each number.

    With the level q and the miss u = y − ŷ it is q·u where the truth lies above what was told, and
    (q − 1)·u where it lies below; in the mean it is least where a share q of the truth lies below.
    """
    q = torch.tensor(levels, dtype=told.dtype, device=told.device)
    miss = actual[..., None] - told
    return torch.maximum(q * miss, (q - 1) * miss)


def sort_quantiles(told: Float[Tensor, "*batch quantiles"]) -> Float[Tensor, "*batch quantiles"]:
    """Quantiles that do not cross: sorted, by which their loss never grows (Chernozhukov,
    Fernández-Val & Galichon 2010, Econometrica 78:1093)."""
    return told.sort(-1).values


def inside_band(
    told: Float[Tensor, "*batch quantiles"], actual: Float[Tensor, "*batch"]
) -> Bool[Tensor, "*batch"]:
    """Whether the truth lies in the band from the lowest quantile to the highest."""
    return (told[..., 0] <= actual) & (actual <= told[..., -1])


def interpolate_quantiles(
    told: Float[Tensor, "*batch quantiles"],
    levels: Sequence[float],
    at: Float[Tensor, "*batch"],
) -> Float[Tensor, "*batch"]:
    """The value at the levels `at`, in (0, 1), on straight lines through the quantiles told.

    The outer lines are led on beyond the lowest and the highest level, so the tails are short ones.
    """
    q = torch.tensor(levels, dtype=told.dtype, device=told.device)
    right = torch.searchsorted(q, at.contiguous()).clamp(1, len(q) - 1)
    below, above = (told.gather(-1, i[..., None])[..., 0] for i in (right - 1, right))
    share = (at - q[right - 1]) / (q[right] - q[right - 1])
    return below + share * (above - below)
