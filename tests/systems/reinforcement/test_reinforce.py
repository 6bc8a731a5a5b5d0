"""REINFORCE: the gradient equals the definition, and a baseline reduces its variance."""

import dataclasses
import math

import gymnasium
import numpy as np
import pytest
import torch

from torchstone.systems.reinforcement import reinforce

SMOKE = dataclasses.replace(reinforce.RECIPES["smoke"], device="cpu")


@pytest.mark.parametrize("baseline", ["learned", "mean", "none"])
def test_reinforce_gradient_equals_definition(baseline):
    """One episode at a time, in a plain loop: Σ_t ∇ log π(a_t|s_t) (G_t - b), and its variance."""
    recipe = dataclasses.replace(SMOKE, baseline=baseline, max_episode_steps=20, vf_coef=0.0, num_envs=6)
    run = next(reinforce.build(recipe))
    model = run.state["model"]
    rollout, is_live = next(run.stream)
    assert len(rollout.final_observations)
    assert len(rollout.final_observations) < 6
    all_returns = []
    for env in range(6):
        length = int(is_live[:, env].sum())
        is_truncated = rollout.truncated[length - 1, env] & ~rollout.terminated[length - 1, env]
        is_learned = baseline == "learned"
        g = model.value(rollout.last_observation[env][None]).item() if is_learned and is_truncated else 0.0
        backward = []
        for t in reversed(range(length)):
            g = rollout.reward[t, env].item() + recipe.gamma * g
            backward.append(g)
        all_returns.append(backward[::-1])
    pooled = torch.tensor([x for returns in all_returns for x in returns])
    gradients = []
    parameters = list(model.actor.parameters())
    for env, returns in enumerate(all_returns):
        total = torch.zeros(())
        for t, g in enumerate(returns):
            state = rollout.observation[t, env][None]
            base = {"learned": model.value(state).item(), "mean": pooled.mean().item(), "none": 0.0}
            policy = torch.distributions.Categorical(logits=model.policy(state).logits)
            score = policy.log_prob(rollout.action[t, env][None])[0]
            total = total + score * (g - base[baseline]) / pooled.std()
        gradient = torch.autograd.grad(-total * 6 / len(pooled), parameters)
        gradients.append(torch.cat([g.flatten() for g in gradient]))
    each = torch.stack(gradients)
    metrics = run.update((rollout, is_live))
    gradient = torch.cat([p.grad.flatten() for p in parameters])
    variance = each.var(0).sum()
    print("gradient's norm", float(gradient.norm()), "furthest", float((gradient - each.mean(0)).abs().max()))
    print("variance", float(metrics["gradient_variance"]), "by definition", float(variance))
    torch.testing.assert_close(gradient, each.mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(metrics["gradient_variance"], variance, rtol=1e-4, atol=1e-6)


def test_reinforce_baseline_reduces_gradient_variance():
    run = next(reinforce.build(SMOKE))
    for _ in range(12):
        run.update(next(run.stream))
    model, variances = run.state["model"], {"learned": [], "none": []}
    for _ in range(4):
        rollout, is_live = next(run.stream)
        for baseline, of_baseline in variances.items():
            recipe = dataclasses.replace(SMOKE, baseline=baseline)
            _, advantage = reinforce.returns_and_advantages(model, rollout, is_live, recipe)
            gradients = []
            for env in range(len(rollout.last_observation)):
                live = is_live[:, env]
                policy = model.policy(rollout.observation[live, env])
                objective = (policy.log_prob(rollout.action[live, env]) * advantage[live, env]).sum()
                one = torch.autograd.grad(objective, list(model.actor.parameters()))
                gradients.append(torch.cat([g.flatten() for g in one]))
            of_baseline.append(float(torch.stack(gradients).var(0).sum()))
    means = {name: sum(v) / len(v) for name, v in variances.items()}
    print(means)
    assert means["learned"] < 0.8 * means["none"]


class Bandit(gymnasium.Env):
    """Each episode is one step, whose reward is always the same."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, reward: float):
        self.reward = reward

    def reset(self, *, seed=None, options=None):
        return np.ones(2, np.float32), {}

    def step(self, action):
        return np.ones(2, np.float32), self.reward, True, False, {}


@pytest.mark.parametrize("baseline", ["learned", "mean", "none"])
@pytest.mark.parametrize(("reward", "num_envs"), [(0.0, 4), (-200.0, 4), (-200.0, 1)])
def test_reinforce_of_returns_that_do_not_differ_stays_finite(reward, num_envs, baseline):
    """They have no deviation to be a unit, one episode has no variance, and no reward gives no gradient."""
    gymnasium.registry.pop("Bandit-v0", None)
    gymnasium.register("Bandit-v0", entry_point=Bandit, kwargs={"reward": reward})
    changes = {"data": "Bandit-v0", "num_envs": num_envs, "baseline": baseline, "eval_episodes": 1}
    run = next(reinforce.build(dataclasses.replace(SMOKE, **changes)))
    metrics = run.update(next(run.stream))
    print({name: float(value) for name, value in metrics.items()})
    assert all(math.isfinite(value) for value in metrics.values())
    assert abs(float(metrics["loss"])) < 1e5
    assert ("gradient_variance" in metrics) == (num_envs > 1)
    assert all(torch.isfinite(p).all() for p in run.state["model"].parameters())


def test_deviation_is_the_standard_deviation_and_1_where_returns_do_not_differ():
    varied = torch.tensor([1.0, 2.0, 4.0])
    cases = [varied, torch.full((5,), 0.1), torch.zeros(3), torch.ones(1)]
    found = [float(reinforce.deviation(each)) for each in cases]
    print(found)
    assert found == [float(varied.std() + 1e-8), 1.0, 1.0, 1.0]
