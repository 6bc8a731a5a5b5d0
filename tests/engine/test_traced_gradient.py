"""A traced update against one by autograd."""

import copy
import dataclasses
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from torchstone.engine.flat_update import FlatGradientUpdate
from torchstone.engine.traced_gradient import TracedGradient
from torchstone.systems.reinforcement import dqn, ppo


class Batch(NamedTuple):
    x: tuple[Tensor, Tensor | None]
    y: Tensor


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def make_update(model: nn.Module, target: nn.Module, traced: bool) -> FlatGradientUpdate:
    def loss(batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        x, weight = batch.x
        error = model(x)[:, 0] - batch.y - target(x)[:, 0].detach()
        square = error.square() if weight is None else weight * error.square()
        return {"loss": square.mean(), "error": error.mean()}, error.detach()

    return FlatGradientUpdate(
        loss,
        model,
        lambda vector: torch.optim.Adam(vector, lr=1e-2, fused=True),
        max_grad_norm=0.1,
        has_aux=True,
        traced=traced,
    )


def test_traced_update_equals_autograd():
    model, target = network(), network()
    other, other_target = copy.deepcopy(model), copy.deepcopy(target)
    steps = make_update(model, target, True), make_update(other, other_target, False)
    assert isinstance(steps[0].traced_gradient, TracedGradient)
    assert steps[1].traced_gradient is None
    generator = torch.Generator().manual_seed(1)
    for number in range(12):
        rows = (16, 5)[number % 2]  # as the last minibatch of an epoch
        x, weight = torch.randn(rows, 3, generator=generator), torch.rand(rows, generator=generator)
        batch = Batch((x, weight if number % 3 else None), torch.randn(rows, generator=generator))
        (metrics, error), (expected, expected_error) = (step(batch) for step in steps)
        assert list(metrics) == list(expected)
        for name, value in metrics.items():
            assert not value.requires_grad
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(error, expected_error, rtol=1e-4, atol=1e-5)
        if number == 6:  # a target network that is synchronized in place
            with torch.no_grad():
                for each, own in ((target, model), (other_target, other)):
                    for a, b in zip(each.parameters(), own.parameters(), strict=True):
                        a.copy_(b)
    programs = steps[0].traced_gradient.programs
    assert len(programs) == 4, "two lengths, with weights and without"
    assert all(programs.values())
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_form_is_also_what_a_batch_lacks():
    model = nn.Linear(3, 1)

    def loss(batch):
        x, other = batch
        return {"loss": model(x).mean() if other is None else -model(other).mean()}

    step = FlatGradientUpdate(loss, model, lambda vector: torch.optim.SGD(vector, lr=0.0), traced=True)
    x = torch.rand(4, 3)
    assert torch.allclose(step((x, None))["loss"], -step((None, x))["loss"], atol=1e-5)


@pytest.mark.parametrize("width", [8, 20_000])
def test_large_layers_are_left_to_autograd(width):
    model = nn.Linear(width, 1)
    step = FlatGradientUpdate(
        lambda x: {"loss": model(x).square().mean()},
        model,
        lambda vector: torch.optim.SGD(vector, lr=0.1),
        traced=True,
    )
    assert (step.traced_gradient is None) == (width > 2**14)


def test_loss_that_cannot_be_traced_is_left_to_autograd():
    model = network()
    before = copy.deepcopy(model)
    step = FlatGradientUpdate(
        lambda x: {"loss": model(x).sort(0).values.square().mean()},
        model,
        lambda vector: torch.optim.SGD(vector, lr=0.1),
        traced=True,
    )
    x = torch.randn(4, 3)
    step(x), step(x)
    assert step.traced_gradient is not None
    assert list(step.traced_gradient.programs.values()) == [None]
    for _ in range(2):
        loss = before(x).square().mean()
        found = torch.autograd.grad(loss, list(before.parameters()))
        with torch.no_grad():
            for p, g in zip(before.parameters(), found, strict=True):
                p.sub_(0.1 * g)
    for a, b in zip(model.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("system", [ppo, dqn])
def test_losses_of_agents_are_traced(system, monkeypatch):
    """Nothing says so otherwise: what cannot be traced is left to torch."""
    programs = []
    trace = TracedGradient._trace
    monkeypatch.setattr(TracedGradient, "_trace", lambda *args: programs.append(trace(*args)) or programs[-1])
    run = next(system.build(dataclasses.replace(system.RECIPES["smoke"], device="cpu")))
    run.update(next(run.stream))
    assert programs
    assert all(program is not None for program in programs)
