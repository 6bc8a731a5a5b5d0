"""Convolution blocks against their definitions."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchstone.parts.conv.convolution import (
    SamePadding,
    conv_norm_act,
    depthwise_separable,
    effective_kernel,
    make_divisible,
    reduce_strides,
    separable_cost,
    zero_stuff,
)
from torchstone.parts.facts import macs
from torchstone.parts.optional_imports import import_torchvision
from torchstone.verify import relative_error


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "groups"), [(3, 1, 1, 1), (3, 2, 1, 8), (5, 2, 1, 1), (3, 1, 4, 2)]
)
def test_conv_norm_act_matches_torchvision(kernel, stride, dilation, groups):
    reference = import_torchvision().ops.Conv2dNormActivation
    theirs = reference(8, 16, kernel, stride, groups=groups, dilation=dilation).double()
    ours = conv_norm_act(8, 16, kernel, stride, groups=groups, dilation=dilation).double()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 8, 17, 17, dtype=torch.float64)
    gap = relative_error(ours(x), theirs(x))
    print(gap, ours(x).shape)
    assert gap <= 1e-12
    assert ours(x).shape[-1] == -(-17 // stride)


def test_conv_norm_act_without_activation_and_even_kernel():
    assert len(conv_norm_act(2, 3, act=None)) == 2
    assert conv_norm_act(2, 3)[0].bias is None
    with pytest.raises(ValueError, match="no center"):
        conv_norm_act(2, 3, 4)


@pytest.mark.parametrize("outputs", [8, 64, 512])
@pytest.mark.parametrize("kernel", [3, 5])
def test_separable_cost_equals_counted_macs(outputs, kernel):
    """Counted, not computed: M cancels, at any stride."""
    for inputs, stride in [(4, 1), (24, 2)]:
        separable = macs(depthwise_separable(inputs, outputs, kernel, stride), (1, inputs, 16, 16))
        # a full convolution of the same stride, whose output is as large
        full = macs(conv_norm_act(inputs, outputs, kernel, stride), (1, inputs, 16, 16))
        print(separable, full, separable / full, separable_cost(outputs, kernel))
        assert separable / full == pytest.approx(separable_cost(outputs, kernel), rel=1e-12)


def test_depthwise_separable_is_rank_one_convolution():
    """Without the norm between: w[n, m] = point[n, m] · depth[m]."""
    layers = depthwise_separable(3, 5, norm=lambda n: nn.Identity(), act=None).double()
    depth, point = layers[0][0].weight, layers[1][0].weight
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    whole = F.conv2d(x, point * depth.transpose(0, 1), padding=1)
    gap = relative_error(layers(x), whole)
    print(gap)
    assert gap <= 1e-12


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("rate", [1, 2, 3, 12])
def test_zero_stuff_equals_dilated_convolution(kernel, rate):
    x = torch.randn(2, 3, 64, 67, dtype=torch.float64)
    weight = torch.randn(4, 3, kernel, kernel, dtype=torch.float64)
    wide = zero_stuff(weight, rate)
    assert wide.shape[-1] == effective_kernel(kernel, rate) == kernel + (kernel - 1) * (rate - 1)
    assert int((wide != 0).sum()) == weight.numel()
    dilated, plain = F.conv2d(x, weight, dilation=rate), F.conv2d(x, wide)
    print(dilated.shape, relative_error(plain, dilated))
    assert relative_error(plain, dilated) <= 1e-12


@pytest.mark.parametrize(
    ("side", "kernel", "stride"), [(8, 3, 2), (9, 3, 2), (10, 5, 2), (7, 5, 3), (6, 1, 2)]
)
def test_same_padding_odd_pixel_last(side, kernel, stride):
    """Output pixel i looks at input i·s − ⌊P/2⌋ …, P = max(0, (⌈n/s⌉ − 1)·s + k − n), pixel by pixel."""
    layer = SamePadding(1, 1, kernel, stride, bias=False).double()
    x = torch.randn(1, 1, side, side, dtype=torch.float64)
    outputs = -(-side // stride)
    before = max(0, (outputs - 1) * stride + kernel - side) // 2
    expected = torch.zeros(outputs, outputs, dtype=torch.float64)
    for i in range(outputs):
        for j in range(outputs):
            for a in range(kernel):
                for b in range(kernel):
                    y, z = i * stride - before + a, j * stride - before + b
                    if 0 <= y < side and 0 <= z < side:
                        expected[i, j] += layer.weight[0, 0, a, b].item() * x[0, 0, y, z]
    print(relative_error(layer(x)[0, 0], expected))
    assert relative_error(layer(x)[0, 0], expected) <= 1e-12


def test_make_divisible_rounds_to_eights_within_ten_percent():
    for channels in range(1, 4000):
        for tenth in range(10):
            wanted = channels + tenth / 10
            got = make_divisible(wanted)
            assert got % 8 == 0
            assert got >= 8
            assert got >= 0.9 * wanted
            # the nearest, half up, unless that loses too much
            nearest = max(8, int(wanted + 4) // 8 * 8)
            assert got == nearest + 8 * (nearest < 0.9 * wanted)
    print({w: make_divisible(w) for w in (11, 12, 17.9, 18, 35.2, 44, 1792)})
    assert (make_divisible(11), make_divisible(12), make_divisible(44)) == (16, 16, 48)


def test_reduce_strides_removes_first_strides():
    assert reduce_strides([2, 1, 2, 2, 2, 1, 2, 1], 32) == [2, 1, 2, 2, 2, 1, 2, 1]
    assert reduce_strides([2, 1, 2, 2, 2, 1, 2, 1], 8) == [1, 1, 1, 2, 2, 1, 2, 1]
    assert reduce_strides([2, 1, 2], 1) == [1, 1, 1]
    for overall in (3, 8):
        with pytest.raises(ValueError, match="cannot be reduced"):
            reduce_strides([2, 1, 2], overall)
