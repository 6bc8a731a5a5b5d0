"""The signal-to-noise ratio of a reconstruction."""

import torch
from jaxtyping import Float
from torch import Tensor

LEAST = 1e-12  # power, so that silence has a ratio


def signal_to_noise(x: Float[Tensor, "*shape"], y: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """10 log₁₀ (Σ x² / Σ (x − y)²), in dB."""
    signal, noise = x.square().sum(), (x - y).square().sum()
    return 10 * torch.log10((signal + LEAST) / (noise + LEAST))
