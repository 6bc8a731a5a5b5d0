"""A2C: a full update is stable-baselines3's. A3C: stale by so many updates, and gone on bit for bit."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest
import torch

from torchstone.engine.run import fit
from torchstone.systems.reinforcement import a2c

_spec = importlib.util.spec_from_file_location("ppo_helpers", Path(__file__).with_name("test_ppo.py"))
ppo_helpers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(ppo_helpers)

SMOKE = dataclasses.replace(a2c.RECIPES["smoke"], device="cpu")


@pytest.mark.parametrize("data", ["CartPole-v1", "Pendulum-v1"])
def test_a2c_update_equals_stable_baselines3(data):
    changes = {"ent_coef": 0.01, "max_episode_steps": 3, "num_steps": 5, "gae_lambda": 1.0}
    recipe = dataclasses.replace(SMOKE, data=data, **changes)
    run = next(a2c.build(recipe))
    model = run.state["model"]
    rollout = next(run.stream)
    assert len(rollout.final_observations) == 8
    other = ppo_helpers.make_sb3("A2C", recipe, data, model)
    ppo_helpers.fill_rollout_buffer(other, rollout)
    before = ppo_helpers.weights(model)
    other._current_progress_remaining = 1.0
    other.train()
    run.update(rollout)
    after = ppo_helpers.weights(model)
    change = max(float((after[n] - before[n]).abs().max()) for n in after)
    difference = ppo_helpers.weight_difference(after, other)
    print(f"{data}: the update moved weights by {change:.2g}, the two are {difference:.2g} apart")
    assert change > 3e-3
    assert difference < 1e-5


def test_a3c_actors_are_stale_by_number_of_other_actors():
    recipe = dataclasses.replace(SMOKE, actors="async", num_envs=3, lr=1e-3)
    run = next(a2c.build(recipe))
    model, copies = run.state["model"], run.state["copies"]
    history = [ppo_helpers.weights(model)]
    for number in range(9):
        batch = next(run.stream)
        assert batch[0] == number % 3
        # the weights that this actor acted with, and will differentiate at
        actor = ppo_helpers.weights(copies[batch[0]])
        stale = history[max(0, number - 2)]
        assert all(torch.equal(actor[n], stale[n]) for n in actor), f"update {number}"
        differs = any(not torch.equal(actor[n], history[-1][n]) for n in actor)
        assert differs == (number > 0)
        run.update(batch)
        history.append(ppo_helpers.weights(model))


def test_a3c_gradient_is_at_the_actors_weights():
    recipe = dataclasses.replace(SMOKE, actors="async", num_envs=2, lr=1e-3, max_grad_norm=1e9)
    run = next(a2c.build(recipe))
    model, copies = run.state["model"], run.state["copies"]
    for _ in range(4):
        run.update(next(run.stream))
    index, rollout = next(run.stream)
    actor = copies[index]
    square = run.state["optimizer"].state_dict()["state"][0]["square_avg"].clone()
    loss = a2c.loss(actor, rollout, recipe)["loss"]
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(actor.parameters()))])
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    run.update((index, rollout))
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    square = 0.99 * square + 0.01 * gradient.square()  # RMSprop, its statistics shared by the actors
    expected = before - 1e-3 * gradient / (square.sqrt() + 1e-5)
    print("largest difference", float((after - expected).abs().max()))
    torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-7)


def test_a3c_resumes_bit_exact(tmp_path):
    recipe = dataclasses.replace(SMOKE, actors="async", num_envs=3, total_timesteps=31 * 16, eval_episodes=2)
    full = next(a2c.build(recipe))
    full.best_metric = None  # the interrupted run is evaluated once more
    fit(full, tmp_path / "full", quiet=True)
    interrupted = next(a2c.build(recipe))
    interrupted.steps, interrupted.best_metric = 17, None
    fit(interrupted, tmp_path / "interrupted", quiet=True)
    resumed = next(a2c.build(recipe))
    resumed.best_metric = None
    fit(resumed, tmp_path / "interrupted", quiet=True)
    a, b = (torch.cat([p.flatten() for p in r.state["model"].parameters()]) for r in (full, resumed))
    print("parameters", len(a), "different", int((a != b).sum()))
    assert torch.equal(a, b)
    assert full.results == resumed.results
