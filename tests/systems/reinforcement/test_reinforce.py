"""REINFORCE: the gradient of a step is the definition's, and a baseline makes its variance smaller."""

import dataclasses

import pytest
import torch

from torchstone.systems.reinforcement import reinforce

SMOKE = dataclasses.replace(reinforce.RECIPES["smoke"], device="cpu")


@pytest.mark.parametrize("baseline", ["learned", "mean", "none"])
def test_a_step_follows_the_definition(baseline):
    """One episode at a time, in a plain loop: Σ_t ∇ log π(a_t|s_t) (G_t - b), and its variance."""
    recipe = dataclasses.replace(SMOKE, baseline=baseline, limit=20, value=0.0, worlds=6)
    run = next(reinforce.build(recipe))
    model = run.state["model"]
    rollout, live = next(run.stream)
    assert len(rollout.cuts)
    assert len(rollout.cuts) < 6
    every = []
    for world in range(6):
        length = int(live[:, world].sum())
        cut = rollout.truncated[length - 1, world] & ~rollout.terminated[length - 1, world]
        learnt = baseline == "learned"
        going = model.value(rollout.last[world][None]).item() if learnt and cut else 0.0
        found = []
        for t in reversed(range(length)):
            going = rollout.reward[t, world].item() + recipe.gamma * going
            found.append(going)
        every.append(found[::-1])
    pooled = torch.tensor([x for returns in every for x in returns])
    gradients = []
    parameters = list(model.actor.parameters())
    for world, returns in enumerate(every):
        total = torch.zeros(())
        for t, following in enumerate(returns):
            state = rollout.observation[t, world][None]
            base = {"learned": model.value(state).item(), "mean": pooled.mean().item(), "none": 0.0}
            chance = torch.distributions.Categorical(logits=model.policy(state).logits)
            score = chance.log_prob(rollout.action[t, world][None])[0]
            total = total + score * (following - base[baseline]) / pooled.std()
        found = torch.autograd.grad(-total * 6 / len(pooled), parameters)
        gradients.append(torch.cat([g.flatten() for g in found]))
    each = torch.stack(gradients)
    metrics = run.update((rollout, live))
    taken = torch.cat([p.grad.flatten() for p in parameters])
    variance = each.var(0).sum()
    print(
        "gradient's norm",
        float(taken.norm()),
        "furthest",
        float((taken - each.mean(0)).abs().max()),
    )
    print("variance", float(metrics["variance"]), "by definition", float(variance))
    torch.testing.assert_close(taken, each.mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(metrics["variance"], variance, rtol=1e-4, atol=1e-6)


def test_a_baseline_makes_the_variance_smaller():
    run = next(reinforce.build(SMOKE))
    for _ in range(12):
        run.update(next(run.stream))
    model, found = run.state["model"], {"learned": [], "none": []}
    for _ in range(4):
        rollout, live = next(run.stream)
        for baseline, variances in found.items():
            recipe = dataclasses.replace(SMOKE, baseline=baseline)
            _, given = reinforce.weights(model, rollout, live, recipe)
            gradients = []
            for world in range(len(rollout.last)):
                there = live[:, world]
                policy = model.policy(rollout.observation[there, world])
                gain = (policy.log_prob(rollout.action[there, world]) * given[there, world]).sum()
                one = torch.autograd.grad(gain, list(model.actor.parameters()))
                gradients.append(torch.cat([g.flatten() for g in one]))
            variances.append(float(torch.stack(gradients).var(0).sum()))
    means = {name: sum(v) / len(v) for name, v in found.items()}
    print(means)
    assert means["learned"] < 0.8 * means["none"]
