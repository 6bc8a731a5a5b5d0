"""MAPPO: agents that are absent count nowhere; advantages and loss in plain loops."""

import dataclasses

import pytest
import torch
from systems.multiagent.team_cases import COUNTS, SIZES, grad_of, toy_episodes, with_garbage

from torchstone.engine.run import Intervals, fit
from torchstone.systems.multiagent import mappo

RECIPE = dataclasses.replace(mappo.Recipe(), gamma=0.9, gae_lambda=0.8, device="cpu")


def model_of(central=True, seed=0):
    torch.manual_seed(seed)
    model = mappo.MAPPO(SIZES, COUNTS, hidden=(6,), central=central, policy_gain=1.0).double()
    model.value_norm.update(torch.tensor([1.0, 3.0, 4.0]))
    return model


def plain_advantages(model, episodes, recipe):
    """Each agent's stay by itself: from its arrival to its end, or until it is cut off."""
    with torch.no_grad():
        value = model.value(episodes.observation, episodes.state)
    found = torch.zeros_like(episodes.reward)
    for e in range(len(value)):
        for a in range(3):
            stay = episodes.present[e, :, a].nonzero()[:, 0].tolist()
            following = 0.0
            for t in reversed(stay):
                is_last = t == stay[-1]
                after = 0.0 if is_last and not episodes.truncated[e, t, a] else value[e, t + 1, a].item()
                delta = episodes.reward[e, t, a].item() + recipe.gamma * after - value[e, t, a].item()
                following = delta + (0.0 if is_last else recipe.gamma * recipe.gae_lambda * following)
                found[e, t, a] = following
    return found, torch.where(episodes.present, found + value[:, :-1], 0.0)


@pytest.mark.parametrize("central", [True, pytest.param(False, marks=pytest.mark.sweep)])
def test_advantages_are_of_each_agent_s_own_stay(central):
    model, episodes = model_of(central), toy_episodes()
    ours = mappo.advantages(model, episodes, RECIPE)
    theirs = plain_advantages(model, episodes, RECIPE)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


def test_absent_agents_count_nowhere():
    """In the loss, the entropy, the advantages' and the values' normalization alike: what stands in their place
    changes not a bit; and each is the mean over those who were there."""
    episodes = toy_episodes()
    found = []
    for each in (episodes, with_garbage(episodes)):
        model = model_of()
        steps = mappo.make_steps(model, each, RECIPE)
        metrics = mappo.loss(model, steps, RECIPE)
        statistics = [model.value_norm.mean, model.value_norm.variance, model.value_norm.count]
        found.append([*grad_of(metrics["loss"], model), *metrics.values(), *statistics])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    # of three values before, and the returns of those who were there
    assert model.value_norm.count.item() == pytest.approx(3 + int(episodes.present.sum()), abs=1e-3)
    advantage = steps.advantage[steps.present]
    assert advantage.mean().abs() < 1e-9
    assert advantage.std(correction=0) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.sweep) for s in range(1, 8))])
def test_loss_equals_plain_loops(seed):
    episodes, old = toy_episodes(seed=seed), model_of(seed=seed)
    recipe = dataclasses.replace(RECIPE, ent_coef=0.1, clip_coef=0.1)
    steps = mappo.make_steps(old, episodes, recipe)
    model = model_of(seed=seed + 10)  # another one: ratios far from 1
    model.value_norm.load_state_dict(old.value_norm.state_dict())
    ours = mappo.loss(model, steps, recipe)["loss"]
    objective, entropy, error, count = 0.0, 0.0, 0.0, 0
    for row in range(len(steps.action)):
        logits = model.policy_layers(mappo.task.with_identity(steps.observation[row]))
        value = model.normalized_value(steps.observation[row], steps.state[row])
        for a in range(3):
            if not steps.present[row, a]:
                continue
            p = logits[a, : COUNTS[a]].exp() / logits[a, : COUNTS[a]].exp().sum()
            ratio = p[steps.action[row, a]] / steps.log_prob[row, a].exp()
            clipped = ratio.clamp(1 - 0.1, 1 + 0.1)
            advantage = steps.advantage[row, a]
            objective = objective + torch.min(ratio * advantage, clipped * advantage)
            entropy = entropy - (p * p.log()).sum()
            target = (steps.returns[row, a] - old.value_norm.mean) / (old.value_norm.variance + 1e-8).sqrt()
            error, count = error + (value[a] - target) ** 2, count + 1
    theirs = (error - objective - 0.1 * entropy) / count
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-9)
    pairs = zip(grad_of(ours, model), grad_of(theirs, model), strict=True)
    assert all(torch.allclose(a, b, rtol=1e-8, atol=1e-11) for a, b in pairs)


def test_agents_sample_their_own_actions_in_the_policy_s_shares():
    model, episodes = model_of(), toy_episodes(1)
    observation = episodes.observation[:1, 1].expand(8000, -1, -1)
    present = torch.ones(8000, 3, dtype=torch.bool)
    action = mappo.sampling(model, torch.Generator().manual_seed(0))(0, observation, present)
    shares = torch.nn.functional.one_hot(action, 4).double().mean(0)
    print(shares)
    assert torch.allclose(shares, model.action_logits(observation[0]).softmax(-1), atol=0.02)
    assert shares[0, 2:].sum() == 0
    assert shares[2, 3] == 0


def test_what_the_critic_sees():
    """All agents' observations and nobody's actions; the independent one its own."""
    episodes = toy_episodes(1)
    for central in (True, False):
        model = model_of(central)
        observation = episodes.observation[:, 1].clone().requires_grad_()
        state = torch.cat([observation.flatten(1), torch.ones(1, 3, dtype=torch.double)], 1)
        (slope,) = torch.autograd.grad(model.normalized_value(observation, state)[0, 0], observation)
        assert bool(slope[0, 1].any()) is central
        assert slope[0, 0].any()


def test_a_matrix_game_is_solved():
    """The team finds one of the two best joint actions of the penalty game, or the safe one: never the penalty."""
    fields = {
        "data": "matrix:penalty",
        "max_episode_steps": 1,
        "hidden": (16,),
        "num_envs": 32,
        "batch_size": 32,
    }
    fields |= {"epochs": 4, "lr": 1e-2, "anneal_lr": False, "steps": 60, "eval_episodes": 1}
    run = next(mappo.build(dataclasses.replace(RECIPE, **fields, policy_gain=0.01)))
    found = fit(run, intervals=Intervals(evaluate=60), quiet=True)
    print(found)
    assert found["test/return"] in (4.0, 20.0)
    assert "no actions" in run.metadata["data"]
