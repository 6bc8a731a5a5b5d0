"""Optimizers and learning-rate schedules against their equations."""

import dataclasses

import pytest
import torch
from torch import nn

from torchstone.engine.update import OptimConfig
from torchstone.systems.convolutional import deeplab
from torchstone.tasks import optimization


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rmsprop_equals_mobilenet_recursion(momentum):
    """v ← 0.9·v + 0.1·g², b ← m·b + g/(√v + 1e-3), p ← p − lr·b, with g = ∇L + decay·p."""
    weight = nn.Parameter(torch.randn(5, dtype=torch.float64))
    ours = weight.detach().clone()
    v, b, lr, decay = torch.zeros_like(ours), torch.zeros_like(ours), 0.045, 4e-5
    optim = OptimConfig(optimizer="rmsprop", lr=lr, momentum=momentum, weight_decay=decay)
    optimizer = optimization.make_optimizer([weight], optim)
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


def test_lr_schedule_poly_power():
    """lr · (1 − step / steps)^0.9, of Chen et al. 2016, arXiv:1606.00915, section 4.1.1."""
    recipe = dataclasses.replace(deeplab.RECIPES["voc"], steps=50)
    weight = nn.Parameter(torch.zeros(1))
    optimizer = optimization.make_optimizer([weight], recipe.optim)
    schedule = optimization.make_lr_scheduler(optimizer, recipe.optim, recipe.steps)
    rates = []
    for _ in range(recipe.steps):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    wanted = [0.007 * (1 - step / 50) ** 0.9 for step in range(50)]
    print(rates[0], rates[25], rates[-1])
    assert rates == pytest.approx(wanted, rel=1e-12)


def test_lr_schedule_min_lr_ratio():
    """Cosine decay ends at `min_lr_ratio` of the peak, after a linear warm-up."""
    optim = OptimConfig(lr=2.0, warmup_ratio=0.1, min_lr_ratio=0.25)
    optimizer = optimization.make_optimizer([nn.Parameter(torch.zeros(1))], optim)
    factor = optimization.make_lr_scheduler(optimizer, optim, 100).lr_lambdas[0]
    print([factor(step) for step in (0, 9, 10, 55, 100)])
    assert [factor(0), factor(9)] == pytest.approx([1 / 11, 10 / 11])
    assert [factor(10), factor(55), factor(100)] == pytest.approx([1.0, 0.625, 0.25])


def test_decay_matrices_only_spares_biases_and_norms():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    matrices, others = optimization.decay_matrices_only(model, OptimConfig(weight_decay=0.3))
    assert ([p.dim() for p in matrices["params"]], matrices["weight_decay"]) == ([2], 0.3)
    assert ([p.dim() for p in others["params"]], others["weight_decay"]) == ([1, 1, 1], 0.0)


def test_constant_then_linear_is_zero_at_the_end():
    """The authors' 100 epochs and 100 more: the first half as it is, then a straight line to zero."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optim = OptimConfig(lr=0.2, lr_schedule="constant_linear")
    optimizer = optimization.make_optimizer([weight], optim)
    scheduler = optimization.make_lr_scheduler(optimizer, optim, 10)
    rates = []
    for _ in range(11):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    expected = [0.2] * 6 + [0.16, 0.12, 0.08, 0.04, 0.0]
    assert all(abs(a - b) < 1e-12 for a, b in zip(rates, expected, strict=True)), rates
