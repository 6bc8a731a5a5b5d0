"""Lion against algorithm 2 of its paper, in plain numbers."""

import math

import pytest
import torch
from parts.optim.trajectories import set_gradients, weights

from torchstone.parts.optim.lion import Lion


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.95, 0.98), (0.5, 0.0)])
def test_lion_equals_algorithm_2(decay, betas):
    (weight,) = weights(((3, 4),))
    optimizer = Lion([weight], lr=0.02, betas=betas, weight_decay=decay)
    theta, moment = weight.detach().flatten().tolist(), [0.0] * 12
    for step in range(100):
        set_gradients([weight], step)
        for i, g in enumerate(weight.grad.flatten().tolist()):
            c = betas[0] * moment[i] + (1 - betas[0]) * g
            sign = math.copysign(1.0, c) if c else 0.0
            theta[i] = theta[i] - 0.02 * (sign + decay * theta[i])
            moment[i] = betas[1] * moment[i] + (1 - betas[1]) * g
        optimizer.step()
    gap = max(abs(a - b) for a, b in zip(weight.detach().flatten().tolist(), theta, strict=True))
    print(f"{gap:.1e}")
    assert gap <= 1e-12


def test_lion_moves_every_weight_by_the_rate():
    weight = torch.nn.Parameter(torch.zeros(5))
    weight.grad = torch.tensor([1e-8, -1e8, 0.0, 2.0, -3.0])
    Lion([weight], lr=0.25).step()
    assert weight.tolist() == [-0.25, 0.25, 0.0, -0.25, 0.25]


def test_lion_maximizes():
    up, down = weights(((3,),)), weights(((3,),))
    set_gradients(up, 0)
    set_gradients(down, 0)
    before = up[0].detach().clone()
    Lion(up, lr=0.1, maximize=True).step()
    Lion(down, lr=0.1).step()
    torch.testing.assert_close(up[0] - before, before - down[0])
