"""Variance-scaling initialization from the fans of a layer."""

import math

import torch
from torch import Tensor

# var w, from the inputs that a unit has and the units that an input has
VARIANCE = {
    "fan_in": lambda fan_in, fan_out: 1 / fan_in,  # LeCun et al. 1998, "Efficient BackProp"
    "xavier": lambda fan_in, fan_out: 2 / (fan_in + fan_out),  # Glorot & Bengio 2010
    "he": lambda fan_in, fan_out: 2 / fan_in,  # He et al. 2015, arXiv:1502.01852, for ReLU
}


@torch.no_grad()
def init_(weight: Tensor, variance: str) -> Tensor:
    """Fill `weight` (out, in, *kernel) in place with normal numbers of mean 0 and the named variance."""
    kernel = math.prod(weight.shape[2:])
    fan_in, fan_out = weight.shape[1] * kernel, weight.shape[0] * kernel
    return weight.normal_(0, math.sqrt(VARIANCE[variance](fan_in, fan_out)))
