"""Polyak averaging against its definition."""

import torch
from torch import nn

from torchstone.parts.rl.target_network import make_target, polyak_update


def test_polyak_update_interpolates_and_copies_buffers():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    copy = make_target(model)
    assert not any(p.requires_grad for p in copy.parameters())
    old = [p.clone() for p in copy.parameters()]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))
    model(torch.randn(8, 3))
    polyak_update(copy, model, 0.25)
    for p, was, new in zip(copy.parameters(), old, model.parameters(), strict=True):
        assert torch.allclose(p, 0.75 * was + 0.25 * new, atol=1e-7)
    assert torch.equal(copy[1].running_mean, model[1].running_mean)
    polyak_update(copy, model, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(copy.parameters(), model.parameters(), strict=True))
