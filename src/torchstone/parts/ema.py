"""Exponential moving average of weights (Polyak and Juditsky 1992), through torch's own class."""

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def make_ema(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of `model` that follows it: θ̄ ← d·θ̄ + (1 − d)·θ; running statistics are copied."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
