"""Attention gates: weights in 0..1 computed from a feature map and multiplied onto it.

`SqueezeExcitation` weights channels (Hu et al. 2017, arXiv:1709.01507); `ChannelGate` and `SpatialGate`
weight channels and then locations (Woo et al. 2018, arXiv:1807.06521). All preserve the shape.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class SqueezeExcitation(nn.Module):
    """x · σ(W₂ δ(W₁ z + b₁) + b₂), z_c the mean of channel c over all locations, δ the activation, σ the
    gate.

    Both layers are 1x1 convolutions with a bias: 2·channels·squeezed + squeezed + channels parameters.
    """

    def __init__(
        self,
        channels: int,
        squeezed: int,
        activation: Callable[[Tensor], Tensor] = functional.relu,
        gate: Callable[[Tensor], Tensor] = torch.sigmoid,
    ):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation = activation
        self.gate = gate

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        z = x.mean((2, 3), keepdim=True)
        return x * self.gate(self.fc2(self.activation(self.fc1(z))))


class ChannelGate(nn.Module):
    """x · σ(MLP(mean over locations) + MLP(max over locations)), one MLP for both (equation 2).

    Both layers have a bias, with a ReLU between: 2·channels·squeezed + squeezed + channels parameters.
    """

    def __init__(self, channels: int, squeezed: int):
        super().__init__()
        self.fc1 = nn.Linear(channels, squeezed)
        self.fc2 = nn.Linear(squeezed, channels)

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        z = torch.stack([x.mean((2, 3)), x.amax((2, 3))])
        weight = self.fc2(functional.relu(self.fc1(z))).sum(0).sigmoid()
        return x * weight[:, :, None, None]


class SpatialGate(nn.Module):
    """x · σ(BN(f([max over channels; mean over channels]))), f a convolution (equation 3).

    The two maps are in the order of the authors' code, which is not that of the equation.
    2·kernel² + 2 parameters.
    """

    def __init__(self, kernel: int = 7):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(1, momentum=0.01)

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        maps = torch.stack([x.amax(1), x.mean(1)], 1)
        return x * self.bn(self.conv(maps)).sigmoid()
