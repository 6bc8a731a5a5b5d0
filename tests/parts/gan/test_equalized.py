"""Equalized layers against their formulas, and the scale of what they start with."""

import math

import pytest
import torch
import torch.nn.functional as F

from torchstone.parts.gan.equalized import EqualizedConv2d, EqualizedLinear, scaled_leaky_relu


def leaky(x):
    return math.sqrt(2) * torch.where(x > 0, x, 0.2 * x)


def test_equalized_linear_equals_formula():
    layer = EqualizedLinear(6, 4, bias=1.0, lr_multiplier=0.01, is_activated=True)
    x = torch.randn(5, 6)
    expected = leaky(x @ layer.weight.T * 0.01 / math.sqrt(6) + 0.01 * layer.bias)
    assert torch.allclose(layer(x), expected, atol=1e-6)
    assert torch.allclose(layer.bias * 0.01, torch.ones(4))  # what is asked for is the bias at run time
    assert torch.allclose(scaled_leaky_relu(x), leaky(x))


@pytest.mark.parametrize("multiplier", [1.0, 0.01])
def test_stored_weights_have_std_1_over_multiplier_and_outputs_variance_1(multiplier):
    layer = EqualizedLinear(300, 400, lr_multiplier=multiplier)
    assert float(layer.weight.detach().std()) == pytest.approx(1 / multiplier, rel=0.02)
    assert float(layer(torch.randn(100, 300)).var()) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize(("kernel", "halves", "has_bias"), [(1, False, True), (3, False, True), (3, True, True), (1, True, False)])  # fmt: skip
def test_equalized_conv_equals_formula(kernel, halves, has_bias):
    layer = EqualizedConv2d(3, 5, kernel, halves=halves, has_bias=has_bias, is_activated=has_bias).double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    y, stride, padding = x, 1, kernel // 2
    if halves:
        taps = torch.tensor([1.0, 3, 3, 1], dtype=torch.float64) / 8
        weight = taps.outer(taps).expand(3, 1, 4, 4)
        y = F.conv2d(F.pad(x, [1 + kernel // 2] * 4), weight, groups=3)
        stride, padding = 2, 0
    y = F.conv2d(y, layer.weight / math.sqrt(3 * kernel**2), stride=stride, padding=padding)
    if has_bias:
        torch.nn.init.normal_(layer.bias)
        y = leaky(y + layer.bias[:, None, None])
    assert layer(x).shape[-1] == (4 if halves else 8)
    assert torch.allclose(layer(x), y, atol=1e-12)
