"""Dilated convolutions: in place of strides, and as the plain convolutions that they are equal to.

Chen et al. 2014, arXiv:1412.7062; Yu and Koltun 2015, arXiv:1511.07122.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.parts.conv.convolution import zero_stuff


def dilate(block: Callable[..., Any], rates: Mapping[int, tuple[int, int]]) -> Callable[..., Any]:
    """`block` without stride, dilated, in stages of the widths in `rates`: (first block's, the others')."""

    def make(inputs: int, width: int, stride: int) -> nn.Module:
        if width not in rates:
            return block(inputs, width, stride)
        first, others = rates[width]
        return block(inputs, width, 1, dilation=first if stride > 1 else others)

    return make


class ZeroStuffedConv(nn.Module):
    """A dilated convolution as a plain one whose kernel has zeros between its weights."""

    def __init__(self, layer: nn.Conv2d):
        super().__init__()
        self.weight, self.dilation = layer.weight, layer.dilation[0]

    def forward(
        self, x: Float[Tensor, "batch inputs height width"]
    ) -> Float[Tensor, "batch outputs height width"]:
        kernel = zero_stuff(self.weight, self.dilation)
        return F.conv2d(x, kernel, padding=kernel.shape[-1] // 2)


def undilate(model: nn.Module) -> nn.Module:
    """A copy with `ZeroStuffedConv` in place of every dilated convolution."""
    copy = deepcopy(model)
    for name, layer in list(copy.named_modules()):
        if isinstance(layer, nn.Conv2d) and layer.dilation[0] > 1:
            copy.set_submodule(name, ZeroStuffedConv(layer))
    return copy
