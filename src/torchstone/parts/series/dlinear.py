"""DLinear: a series decomposed into trend and remainder, each forecast by one linear layer."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

KERNEL = 25


class DLinear(nn.Module):
    """Zeng, Chen, Zhang and Xu 2022, "Are Transformers Effective for Time Series Forecasting?"
    (arXiv:2205.13504), section 4.1; one pair of layers for all columns.

        trend = moving average of x over 25 points, with replicated ends
        x̂ = W₁ trend + b₁ + W₂ (x − trend) + b₂

    Args:
        context: input points; `horizon`: points to forecast.
    """

    def __init__(self, context: int, horizon: int):
        super().__init__()
        self.trend = nn.Linear(context, horizon)
        self.rest = nn.Linear(context, horizon)

    def forward(self, past: Float[Tensor, "batch context columns"]) -> Float[Tensor, "batch horizon columns"]:
        x = past.transpose(1, 2)
        padded = F.pad(x, (KERNEL // 2, KERNEL // 2), mode="replicate")
        trend = F.avg_pool1d(padded, KERNEL, stride=1)
        return (self.trend(trend) + self.rest(x - trend)).transpose(1, 2)
