"""The optimisers that recipes name."""

import dataclasses

import pytest
import torch
from torch import nn

from torchstone.systems.convolutional import deeplab
from torchstone.systems.convolutional.mobilenet import Recipe
from torchstone.tasks import optimizers


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rmsprop_is_the_recursion_that_the_mobile_networks_are_trained_with(momentum):
    """v ← 0.9·v + 0.1·g², b ← m·b + g/(√v + 1e-3), p ← p − lr·b, with g = ∇L + decay·p."""
    weight = nn.Parameter(torch.randn(5, dtype=torch.float64))
    ours = weight.detach().clone()
    v, b, lr, decay = torch.zeros_like(ours), torch.zeros_like(ours), 0.045, 4e-5
    recipe = dataclasses.replace(Recipe(), optimizer="rmsprop", lr=lr, momentum=momentum, weight_decay=decay)
    optimizer = optimizers.optimizer([weight], recipe)
    for step in range(20):
        weight.grad = torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        g = weight.grad + decay * ours
        v = 0.9 * v + 0.1 * g.square()
        b = momentum * b + g / (v.sqrt() + 1e-3)
        ours = ours - lr * b
        optimizer.step()
    gap = float((weight.detach() - ours).abs().max())
    print(gap)
    assert gap <= 1e-12


def test_poly_falls_as_the_power_of_what_is_left():
    """lr · (1 − step / steps)^0.9, of Chen et al. 2016, arXiv:1606.00915, section 4.1.1."""
    recipe = dataclasses.replace(deeplab.RECIPES["voc"], steps=50)
    weight = nn.Parameter(torch.zeros(1))
    optimizer = optimizers.optimizer([weight], recipe)
    schedule = optimizers.schedule(optimizer, recipe)
    rates = []
    for _ in range(recipe.steps):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    wanted = [0.007 * (1 - step / 50) ** 0.9 for step in range(50)]
    print(rates[0], rates[25], rates[-1])
    assert rates == pytest.approx(wanted, rel=1e-12)
