"""Modulated convolution: activations scaled instead of weights is the grouped convolution of own weights."""

import pytest
import torch
import torch.nn.functional as F

from torchstone.parts.gan.modulated_conv import (
    demodulation,
    modulated_conv2d,
    modulated_pointwise,
    scaled_conv2d,
)
from torchstone.parts.gan.resample import fir_filter, upfirdn2d


def grouped(x, weight, styles, demodulates, fir):
    """Equations 1 to 3: each image has weights of its own."""
    own = weight[None] * styles[:, None, :, None, None]
    if demodulates:
        own = own / (own.square().sum((2, 3, 4), keepdim=True) + 1e-8).sqrt()
    batch, outputs, inputs, k, _ = own.shape
    flat = x.reshape(1, batch * inputs, *x.shape[2:])
    if fir is None:
        y = F.conv2d(flat, own.flatten(0, 1), padding=k // 2, groups=batch)
        return y.view(batch, outputs, *y.shape[2:])
    swapped = own.transpose(1, 2).reshape(batch * inputs, outputs, k, k)
    y = F.conv_transpose2d(flat, swapped, stride=2, groups=batch)
    return upfirdn2d(y.view(batch, outputs, *y.shape[2:]), fir, padding=(1, 1), gain=4)


@pytest.mark.parametrize("demodulates", [True, False])
@pytest.mark.parametrize("doubles", [True, False])
def test_modulated_conv_equals_grouped(demodulates, doubles):
    x = torch.randn(3, 4, 6, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    styles = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    fir = fir_filter().double() if doubles else None
    ours = modulated_conv2d(x, weight, styles, demodulates=demodulates, fir=fir)
    theirs = grouped(x, weight, styles, demodulates, fir)
    assert ours.shape[-1] == (12 if doubles else 6)
    assert torch.allclose(ours, theirs, atol=1e-12)
    inputs = (x, weight, styles)
    # the gradient, and the gradient of a function of the gradient, as path lengths take it
    for mine, other in zip(*(gradients(y, inputs) for y in (ours, theirs)), strict=True):
        assert torch.allclose(mine, other, atol=1e-9)


def gradients(y, inputs):
    first = torch.autograd.grad(y.pow(3).sum(), inputs, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs)
    return *first, *second


def test_demodulated_outputs_have_variance_1():
    weight, styles = torch.randn(8, 64, 3, 3), torch.rand(2, 64) * 5
    y = scaled_conv2d(torch.randn(2, 64, 40, 40), weight, styles)
    y = (y * demodulation(weight, styles)[:, :, None, None])[:, :, 1:-1, 1:-1]
    assert torch.allclose(y.var((2, 3)), torch.ones(2, 8), atol=0.15)


def test_modulated_pointwise_equals_grouped():
    x, weight, styles = torch.randn(3, 4, 5, 6), torch.randn(2, 4), torch.randn(3, 4)
    theirs = grouped(x, weight[:, :, None, None], styles, False, None)
    assert torch.allclose(modulated_pointwise(x, weight, styles), theirs, atol=1e-5)
