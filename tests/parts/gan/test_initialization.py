"""Initial weights of GANs."""

import torch
from torch import nn

from torchstone.parts.gan.initialization import init_normal


def test_weights_are_normal_and_biases_zero():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(40, 50, 3), nn.BatchNorm2d(2000), nn.ConvTranspose2d(40, 50, 3))
    init_normal(net)
    for layer, mean in zip(net, (0.0, 1.0, 0.0), strict=True):
        assert abs(float(layer.weight.detach().mean()) - mean) < 0.002
        assert abs(float(layer.weight.detach().std()) - 0.02) < 0.001
        assert not layer.bias.any()


def test_norms_without_weights_are_left():
    init_normal(nn.Sequential(nn.GroupNorm(2, 2, affine=False), nn.Conv2d(1, 1, 1, bias=False)))
