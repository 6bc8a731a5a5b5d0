"""The flat update against separate parameters; its learning-rate schedule and aux output."""

import copy

import pytest
import torch
from torch import nn

from torchstone.engine.flat_update import FlatGradientUpdate
from torchstone.errors import NotFinite


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


@pytest.mark.parametrize("max_grad_norm", [None, 0.1])
def test_flat_update_equals_separate_parameters(max_grad_norm):
    model = network()
    other = copy.deepcopy(model)
    step = FlatGradientUpdate(
        lambda x: {"loss": model(x).square().mean()},
        model,
        lambda vector: torch.optim.Adam(vector, lr=1e-2),
        max_grad_norm=max_grad_norm,
        lr_schedule=lambda number: 1 - number / 10,
    )
    adam = torch.optim.Adam(other.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(1)
    for number in range(10):
        x = torch.randn(16, 3, generator=generator)
        step.schedule_lr(number)
        metrics = step(x)
        adam.param_groups[0]["lr"] = 1e-2 * (1 - number / 10)
        adam.zero_grad()
        other(x).square().mean().backward()
        if max_grad_norm is not None:
            norm = nn.utils.clip_grad_norm_(other.parameters(), max_grad_norm)
            torch.testing.assert_close(metrics["gradient_norm"], norm)
        adam.step()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_flat_update_returns_aux_beside_metrics():
    model = network()

    def loss(x):
        error = model(x)[:, 0]
        return {"loss": error.square().mean()}, error.detach()

    step = FlatGradientUpdate(loss, model, lambda vector: torch.optim.SGD(vector, lr=0.1), has_aux=True)
    x = torch.ones(4, 3)
    expected = model(x)[:, 0].detach().clone()
    metrics, error = step(x)
    assert set(metrics) == {"loss"}
    assert not metrics["loss"].requires_grad, "metrics keep no graph"
    assert torch.equal(error, expected)
    assert not torch.equal(model(x)[:, 0], expected)


def test_flat_update_refuses_nan_before_the_step():
    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    step = FlatGradientUpdate(
        lambda x: {"loss": model(x).mean() * torch.nan}, model, lambda vector: torch.optim.SGD(vector, lr=0.1)
    )
    with pytest.raises(NotFinite, match="the loss is nan"):
        step(torch.ones(2, 3))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
