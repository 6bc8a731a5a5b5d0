"""A2C: a whole update is stable-baselines3's. A3C: stale by so many updates, and gone on bit for bit."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest
import torch

from torchstone.engine.run import fit
from torchstone.systems.reinforcement import a2c

_spec = importlib.util.spec_from_file_location("of_ppo", Path(__file__).with_name("test_ppo.py"))
of_ppo = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(of_ppo)

SMOKE = dataclasses.replace(a2c.RECIPES["smoke"], device="cpu")


@pytest.mark.parametrize("data", ["CartPole-v1", "Pendulum-v1"])
def test_one_update_is_stable_baselines3s(data):
    changes = {"entropy": 0.01, "limit": 3, "length": 5, "lam": 1.0}
    recipe = dataclasses.replace(SMOKE, data=data, **changes)
    run = next(a2c.build(recipe))
    model = run.state["model"]
    rollout = next(run.stream)
    assert len(rollout.cuts) == 8
    other = of_ppo.theirs("A2C", recipe, data, model)
    of_ppo.fed(other, rollout)
    before = of_ppo.weights(model)
    other._current_progress_remaining = 1.0
    other.train()
    run.update(rollout)
    after = of_ppo.weights(model)
    went = max(float((after[n] - before[n]).abs().max()) for n in after)
    far = of_ppo.weights_apart(after, other)
    print(f"{data}: the update moved weights by {went:.2g}, the two are {far:.2g} apart")
    assert went > 3e-3
    assert far < 1e-5


def test_actors_are_stale_by_as_many_updates_as_there_are_others():
    recipe = dataclasses.replace(SMOKE, actors="stale", worlds=3, lr=1e-3)
    run = next(a2c.build(recipe))
    model, copies = run.state["model"], run.state["copies"]
    history = [of_ppo.weights(model)]
    for number in range(9):
        turn = next(run.stream)
        assert turn[0] == number % 3
        # what this actor played with, and will differentiate with
        own = of_ppo.weights(copies[turn[0]])
        stale = history[max(0, number - 2)]
        assert all(torch.equal(own[n], stale[n]) for n in own), f"update {number}"
        moved = any(not torch.equal(own[n], history[-1][n]) for n in own)
        assert moved == (number > 0)
        run.update(turn)
        history.append(of_ppo.weights(model))


def test_the_gradient_is_taken_where_the_actor_stood():
    recipe = dataclasses.replace(SMOKE, actors="stale", worlds=2, lr=1e-3, norm=1e9)
    run = next(a2c.build(recipe))
    model, copies = run.state["model"], run.state["copies"]
    for _ in range(4):
        run.update(next(run.stream))
    index, rollout = next(run.stream)
    own, square = (
        copies[index],
        run.state["optimiser"].state_dict()["state"][0]["square_avg"].clone(),
    )
    loss = a2c.loss(own, rollout, recipe)["loss"]
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(own.parameters()))])
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    run.update((index, rollout))
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    square = 0.99 * square + 0.01 * gradient.square()  # RMSprop, its statistics shared by the actors
    wanted = before - 1e-3 * gradient / (square.sqrt() + 1e-5)
    print("largest difference", float((after - wanted).abs().max()))
    torch.testing.assert_close(after, wanted, rtol=1e-5, atol=1e-7)


def test_a3c_goes_on_bit_for_bit(tmp_path):
    recipe = dataclasses.replace(SMOKE, actors="stale", worlds=3, steps=31, episodes=2)
    whole = next(a2c.build(recipe))
    fit(whole, tmp_path / "whole", quiet=True)
    cut = next(a2c.build(recipe))
    cut.steps = 17
    fit(cut, tmp_path / "cut", quiet=True)
    resumed = next(a2c.build(recipe))
    fit(resumed, tmp_path / "cut", quiet=True)
    a, b = (torch.cat([p.flatten() for p in r.state["model"].parameters()]) for r in (whole, resumed))
    print("parameters", len(a), "different", int((a != b).sum()))
    assert torch.equal(a, b)
    assert whole.results == resumed.results
