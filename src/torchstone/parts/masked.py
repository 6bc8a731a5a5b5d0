"""Means over what a mask says is there."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def masked_mean(x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """The mean where the mask is true; 0 where it nowhere is. What is masked may be NaN."""
    return torch.where(mask, x, 0.0).sum() / mask.sum().clamp(min=1)
