"""The gradient as one vector."""

import torch
from torch import nn

from torchstone.parts.flat_gradient import flat_gradient


def test_flat_gradient_is_zero_for_unused_parameters():
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    gradient = flat_gradient(model[0].weight.square().sum(), model.parameters())
    assert torch.equal(gradient[:24], 2 * model[0].weight.detach().flatten())
    assert not gradient[24:].any()
    assert len(gradient) == sum(p.numel() for p in model.parameters())
