"""DLinear: a series as trend and remainder, each foretold by one linear layer."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

KERNEL = 25


class DLinear(nn.Module):
    """Zeng, Chen, Zhang and Xu 2022, "Are Transformers Effective for Time Series Forecasting?"
    (arXiv:2205.13504), section 4.1; one pair of layers for all columns.

        trend = moving mean of x over 25 points, the ends of x repeated beyond them
        x̂ = W₁ trend + b₁ + W₂ (x − trend) + b₂

    Args:
        context: points that are read; `horizon`: points that are told.
    """

    def __init__(self, context: int, horizon: int):
        super().__init__()
        self.trend = nn.Linear(context, horizon)
        self.rest = nn.Linear(context, horizon)

    def forward(self, past: Float[Tensor, "batch context columns"]) -> Float[Tensor, "batch horizon columns"]:
        x = past.transpose(1, 2)
        wide = F.pad(x, (KERNEL // 2, KERNEL // 2), mode="replicate")
        trend = F.avg_pool1d(wide, KERNEL, stride=1)
        return (self.trend(trend) + self.rest(x - trend)).transpose(1, 2)
