"""Dilation in place of strides, and dilated filters as zero-stuffed ones."""

import pytest
import torch
from torch import nn

from torchstone.parts.conv.dilated import ZeroStuffedConv, dilate, undilate


@pytest.mark.parametrize("rate", [1, 2, 3, 12])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_zero_stuffed_conv_equals_dilated(rate, kernel):
    layer = nn.Conv2d(3, 4, kernel, padding=rate * (kernel // 2), dilation=rate, bias=False).double()
    x = torch.randn(2, 3, 30, 31, dtype=torch.float64)
    apart = float((ZeroStuffedConv(layer)(x) - layer(x)).detach().abs().max())
    print(rate, kernel, apart)
    assert apart < 1e-12


def test_undilate_same_parameters_and_output():
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=2, dilation=2, bias=False),
        nn.Sequential(nn.Conv2d(3, 3, 3, padding=4, dilation=4, bias=False), nn.BatchNorm2d(3)),
        nn.Conv2d(3, 1, 1),
    )
    copy = undilate(model)
    assert [n for n, _ in copy.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert all(m.dilation == (1, 1) for m in copy.modules() if isinstance(m, nn.Conv2d))
    x = torch.randn(2, 2, 12, 12)
    torch.testing.assert_close(copy(x), model(x))
    assert copy[0].weight is not model[0].weight


def test_dilate_replaces_strides_by_rates():
    def block(inputs, width, stride, dilation=1):
        return nn.Conv2d(1, 1, 3, stride, dilation, dilation)

    made = dilate(block, {256: (1, 2), 512: (2, 4)})
    asked = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)]
    found = [(layer.stride[0], layer.dilation[0]) for layer in (made(0, *each) for each in asked)]
    print(found)
    assert found == [(1, 1), (2, 1), (1, 1), (1, 1), (1, 2), (1, 2), (1, 4)]
