"""Conformal calibration of quantile forecasts: how far each quantile is moved so that it is one.

With the residuals r = y − ŷ_q of a predicted quantile ŷ_q, the quantile of level q of r is what ŷ_q
lacks: added to it, a share q of the truth lies below (Romano, Patterson and Candès 2019, arXiv:1905.03222,
for each side of the band by itself). That holds as long as residuals stay as they were. Where a series
shifts, the offset follows them (Gibbs and Candès 2021, arXiv:2106.00170; Angelopoulos, Candès and Tibshirani
2023, arXiv:2307.16895, the quantile tracker):

    δ ← δ + η·s·(1[r > δ] − (1 − q))

s is the residuals' scale. Whatever the series does, the long-run share of r > δ is then 1 − q. The
residual of a forecast k steps ahead is known only k steps later, and is used only then.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

RATE = 0.05  # η

Offsets = Float[Tensor, "horizon columns quantiles"]


def conformal_offsets(
    residuals: Float[Tensor, "windows horizon columns quantiles"],
    observed: Bool[Tensor, "windows horizon columns"],
    levels: Sequence[float],
) -> Offsets:
    """The quantile of each level of the residuals, for each step and column; 0 where nothing was observed.

    Like the empirical one of split conformal prediction it takes the n + 1 values that the next residual may
    lie between as equally likely.
    """
    masked = residuals.masked_fill(~observed[..., None], torch.inf).sort(0).values
    count = observed.sum(0)
    offsets = []
    for i, level in enumerate(levels):
        rank = (level * (count + 1)).clamp(1, None).minimum(count.to(residuals.dtype)) - 1
        low = rank.floor().long().clamp(min=0)
        high = rank.ceil().long().clamp(min=0)
        own = masked[..., i]
        below, above = (own.gather(0, index[None])[0] for index in (low, high))
        value = torch.where(high > low, below + (rank - low) * (above - below), below)
        offsets.append(torch.where(count > 0, value, 0.0))
    return torch.stack(offsets, -1)


def residual_scale(
    residuals: Float[Tensor, "windows horizon columns quantiles"],
    observed: Bool[Tensor, "windows horizon columns"],
) -> Float[Tensor, "horizon columns"]:
    """The mean absolute deviation of the residuals, averaged over quantiles."""
    weight = observed[..., None].to(residuals.dtype)
    count = weight.sum(0).clamp(min=1)
    mean = (residuals * weight).sum(0) / count
    return (((residuals - mean).abs() * weight).sum(0) / count).mean(-1)


def apply_offsets(
    predicted: Float[Tensor, "*batch quantiles"], offsets: Float[Tensor, "... quantiles"], median: int
) -> Float[Tensor, "*batch quantiles"]:
    """Quantiles moved by their offsets. The median stays, and none crosses it or another."""
    moved = predicted + offsets
    center = predicted[..., median : median + 1]
    low = moved[..., :median].minimum(center).sort(-1).values
    high = moved[..., median + 1 :].maximum(center).sort(-1).values
    return torch.cat([low, center, high], -1)


class OffsetTracker:
    """Offsets that follow the residuals of forecasts made one after another, without looking ahead.

    `next_offsets(start)` is what a forecast from the window at `start` may use; then `add` its residuals,
    which count for step k from the window at `start + k + 1` on, when that step has come.
    """

    def __init__(
        self,
        offsets: Offsets,
        scale: Float[Tensor, "horizon columns"],
        levels: Sequence[float],
        rate: float = RATE,
    ):
        horizon = len(offsets)
        self.offsets, self.step = offsets.clone(), rate * scale[..., None]
        self.misses = 1 - torch.tensor(levels, dtype=offsets.dtype)
        self.steps = torch.arange(horizon)
        # of the last `horizon` windows, by start modulo horizon
        self.starts = torch.full((horizon,), -1)
        self.is_above = torch.zeros(horizon, *offsets.shape, dtype=torch.bool)
        self.observed = torch.zeros(horizon, *offsets.shape[:2], dtype=torch.bool)

    def next_offsets(self, start: int) -> Offsets:
        known = start - self.steps - 1  # the window whose step k is the last point before this forecast
        slots = known % len(self.steps)
        fresh = self.observed[slots, self.steps] & (self.starts[slots] == known)[:, None]
        above = self.is_above[slots, self.steps].to(self.offsets.dtype)
        self.offsets = self.offsets + self.step * (above - self.misses) * fresh[..., None]
        return self.offsets

    def add(self, start: int, residuals: Offsets, observed: Bool[Tensor, "horizon columns"]) -> None:
        slot = start % len(self.steps)
        self.starts[slot] = start
        # against the offsets that the forecast had, not those of when it is known
        self.is_above[slot], self.observed[slot] = residuals > self.offsets, observed
