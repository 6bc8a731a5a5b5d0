"""Exponential moving average of weights (Polyak and Juditsky 1992), through torch's own class."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def make_ema(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of `model` that follows it: θ̄ ← d·θ̄ + (1 − d)·θ; running statistics are copied."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))


def make_swa(model: nn.Module, start: int) -> AveragedModel:
    """A copy of `model` that is its mean over the updates from number `start` (0, 1, …) on, and before it the
    model itself: stochastic weight averaging (Izmailov et al. 2018, arXiv:1803.05407, algorithm 1).

    Running statistics are copied. Those of batch normalization belong to the last weights, not to the mean:
    measure them anew before the copy is used (`torch.optim.swa_utils.update_bn`).
    """

    @torch.no_grad()
    def average(averages: Sequence[Tensor], weights: Sequence[Tensor], updates: Tensor | int) -> None:
        count = max(1, int(updates) - start + 1)  # of the weights in the mean, with these
        for mean, weight in zip(averages, weights, strict=True):
            mean.lerp_(weight.to(mean.device), 1 / count)

    return AveragedModel(model, multi_avg_fn=average)
