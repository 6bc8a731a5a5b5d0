"""Equalized learning rate: weights are stored as N(0, 1) and scaled by He's constant at run time.

Karras, Aila, Laine and Lehtinen 2018 (arXiv:1710.10196), section 4.1: Adam moves each parameter by about the
learning rate whatever its scale. If the stored numbers all have the standard deviation 1, all layers learn
at the same relative speed. A `lr_multiplier` μ below 1 slows a layer down: weights are stored as N(0, 1/μ²)
and multiplied by μ (Karras et al. 2019, arXiv:1812.04948, appendix C).
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.parts.gan.resample import fir_filter, upfirdn2d

SLOPE = 0.2  # of leaky ReLU, everywhere in StyleGAN
ACT_GAIN = math.sqrt(2)  # it keeps the variance of N(0, 1) near 1


def scaled_leaky_relu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """√2 · leaky ReLU of slope 0.2."""
    return F.leaky_relu(x, SLOPE) * ACT_GAIN


class EqualizedLinear(nn.Module):
    """y = x Wᵀ μ / √inputs + μ b, then `scaled_leaky_relu` if `is_activated`.

    Args:
        bias: initial value of the bias.
        lr_multiplier: μ.
        gain: by which the weights, but not the bias, are multiplied besides.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        bias: float = 0.0,
        lr_multiplier: float = 1.0,
        is_activated: bool = False,
        gain: float = 1.0,
    ):
        super().__init__()
        self.lr_multiplier, self.is_activated = lr_multiplier, is_activated
        self.gain = gain * lr_multiplier / math.sqrt(inputs)
        self.weight = nn.Parameter(nn.init.normal_(torch.empty(outputs, inputs)) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((outputs,), bias / lr_multiplier))

    def forward(self, x: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch outputs"]:
        y = F.linear(x, self.weight * self.gain, self.bias * self.lr_multiplier)
        return scaled_leaky_relu(y) if self.is_activated else y


class EqualizedConv2d(nn.Module):
    """A convolution that keeps or halves the sides, then `scaled_leaky_relu` if `is_activated`.

    Halving: the image is low-pass filtered and convolved with stride 2.

    Args:
        gain: by which the weights, but not the bias, are multiplied besides.
    """

    fir: Float[Tensor, "taps taps"]

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        halves: bool = False,
        has_bias: bool = True,
        is_activated: bool = True,
        gain: float = 1.0,
    ):
        super().__init__()
        self.halves, self.is_activated, self.padding = halves, is_activated, kernel // 2
        self.gain = gain / math.sqrt(inputs * kernel**2)
        self.weight = nn.Parameter(nn.init.normal_(torch.empty(outputs, inputs, kernel, kernel)))
        self.bias = nn.Parameter(torch.zeros(outputs)) if has_bias else None
        self.register_buffer("fir", fir_filter(), persistent=False)

    def forward(self, x: Float[Tensor, "batch inputs height width"]) -> Float[Tensor, "batch outputs h w"]:
        # √2 · leaky ReLU(a) = leaky ReLU(√2 a): the gain is part of the weights, which are fewer
        gain = ACT_GAIN if self.is_activated else 1.0
        weight = self.weight * (self.gain * gain)
        bias = None if self.bias is None else self.bias * gain
        stride, padding = 1, self.padding
        if self.halves:
            if weight.shape[-1] == 1:  # filtered at the positions that are left
                x = upfirdn2d(x, self.fir, down=2, padding=(1, 1))
            else:
                x, stride, padding = upfirdn2d(x, self.fir, padding=(padding + 1, padding + 1)), 2, 0
        y = F.conv2d(x, weight, bias, stride, padding)
        return F.leaky_relu(y, SLOPE, inplace=True) if self.is_activated else y
