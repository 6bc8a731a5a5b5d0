"""Fused up- and downsampling convolutions equal the two operations one after the other."""

import pytest
import torch
import torch.nn.functional as F

from torchstone.parts.gan.fused_scale import conv_downsample2d, upsample_conv2d


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_fused_convolutions_equal_two_operations(kernel):
    torch.manual_seed(kernel)
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    weight = torch.randn(5, 3, kernel, kernel, dtype=torch.float64)
    bias = torch.randn(5, dtype=torch.float64)
    repeated = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    up = F.conv2d(repeated, weight, padding=kernel // 2)
    down = (
        F.conv2d(x, weight, bias, padding=kernel // 2)
        .unflatten(3, (-1, 2))
        .unflatten(2, (-1, 2))
        .mean((3, 5))
    )
    assert torch.allclose(upsample_conv2d(x, weight), up, atol=1e-12)
    assert torch.allclose(conv_downsample2d(x, weight, bias), down, atol=1e-12)
