"""Quantile forecasts: the pinball loss, and what is computed from predicted quantiles."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def pinball(
    predicted: Float[Tensor, "*batch quantiles"], actual: Float[Tensor, "*batch"], levels: Sequence[float]
) -> Float[Tensor, "*batch quantiles"]:
    """The quantile (pinball) loss (Koenker & Bassett 1978, Econometrica 46:33, equation 2.1), elementwise.

    With the level q and the error u = y − ŷ it is q·u where the truth lies above the prediction, and
    (q − 1)·u where it lies below. Its mean is smallest where a share q of the truth lies below.
    """
    q = torch.tensor(levels, dtype=predicted.dtype, device=predicted.device)
    error = actual[..., None] - predicted
    return torch.maximum(q * error, (q - 1) * error)


def sort_quantiles(predicted: Float[Tensor, "*batch quantiles"]) -> Float[Tensor, "*batch quantiles"]:
    """Quantiles that do not cross: sorting never increases their loss (Chernozhukov, Fernández-Val &
    Galichon 2010, Econometrica 78:1093)."""
    return predicted.sort(-1).values


def inside_band(
    predicted: Float[Tensor, "*batch quantiles"], actual: Float[Tensor, "*batch"]
) -> Bool[Tensor, "*batch"]:
    """Whether the truth lies in the band from the lowest quantile to the highest."""
    return (predicted[..., 0] <= actual) & (actual <= predicted[..., -1])


def interpolate_quantiles(
    predicted: Float[Tensor, "*batch quantiles"], levels: Sequence[float], at: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """The inverse CDF at the levels `at` in (0, 1), linearly interpolated between predicted quantiles.

    The outer segments are extrapolated beyond the lowest and the highest level, so the tails are short.
    """
    q = torch.tensor(levels, dtype=predicted.dtype, device=predicted.device)
    right = torch.searchsorted(q, at.contiguous()).clamp(1, len(q) - 1)
    below, above = (predicted.gather(-1, i[..., None])[..., 0] for i in (right - 1, right))
    share = (at - q[right - 1]) / (q[right] - q[right - 1])
    return below + share * (above - below)
