"""MADDPG: critics of everyone's actions, actors by their own critic alone, absent agents nowhere."""

import dataclasses

import pytest
import torch
from systems.multiagent.team_cases import COUNTS, SIZES, grad_of, toy_episodes, with_garbage

from torchstone.parts.flat_gradient import flat_gradient
from torchstone.parts.rl.gumbel_softmax import gumbel_noise
from torchstone.parts.rl.target_network import make_target
from torchstone.systems.multiagent import maddpg

RECIPE = dataclasses.replace(maddpg.Recipe(), gamma=0.9, device="cpu")


def networks(central=True, seed=0):
    torch.manual_seed(seed)
    model = maddpg.MADDPG(SIZES, COUNTS, hidden=(6,), central=central).double()
    return model, make_target(maddpg.MADDPG(SIZES, COUNTS, hidden=(6,), central=central).double())


def plain_q(model, agent, observation, there, actions):
    """Q of one agent's critic. `actions`: of each agent, one-hot or soft, four numbers."""
    if model.central:
        seen = torch.cat([observation.flatten(), there, *actions])
    else:
        seen = torch.cat([observation[agent], actions[agent]])
    layers = [model.critic[0], model.critic[2]]
    hidden = torch.relu(seen @ layers[0].weight[agent] + layers[0].bias[agent, 0])
    return (hidden @ layers[1].weight[agent] + layers[1].bias[agent, 0])[0]


def plain_logits(model, agent, observation):
    layers = [model.actor[0], model.actor[2]]
    hidden = torch.relu(observation[agent] @ layers[0].weight[agent] + layers[0].bias[agent, 0])
    return (hidden @ layers[1].weight[agent] + layers[1].bias[agent, 0])[: COUNTS[agent]]


def one_hot(index):
    return torch.eye(4, dtype=torch.double)[int(index)]


def plain_losses(model, target, episodes, noise, recipe):
    """Critics' and actors' losses, step by step and agent by agent."""
    zero = torch.zeros(4, dtype=torch.double)
    critic, actor, row = [], [], 0
    for e in range(len(episodes.action)):
        for t in range(episodes.action.shape[1]):
            present, continues = episodes.present[e, t], episodes.continues[e, t]
            now, after = episodes.observation[e, t], episodes.observation[e, t + 1]
            there = [episodes.state[e, t + k, -3:] for k in (0, 1)]
            done = [one_hot(episodes.action[e, t, a]) if present[a] else zero for a in range(3)]
            best = [
                one_hot(plain_logits(target, a, after).argmax()) if continues[a] else zero for a in range(3)
            ]
            for a in range(3):
                if not present[a]:
                    continue
                y = episodes.reward[e, t, a]
                if continues[a]:
                    y = y + recipe.gamma * plain_q(target, a, after, there[1], best).detach()
                critic.append((y - plain_q(model, a, now, there[0], done)) ** 2)
                logits = plain_logits(model, a, now)
                soft = ((logits + noise[row, a, : COUNTS[a]]) / recipe.temperature).softmax(0)
                own = torch.cat([soft, soft.new_zeros(4 - COUNTS[a])])
                own = one_hot(own.argmax()) + own - own.detach()
                others = [own if k == a else done[k] for k in range(3)]
                q = plain_q(model, a, now, there[0], others)
                actor.append(recipe.logit_penalty * logits.square().mean() - q)
            row += 1
    return torch.stack(critic).mean(), torch.stack(actor).mean()


@pytest.mark.parametrize(
    ("central", "seed"),
    [(True, 0), *(pytest.param(c, s, marks=pytest.mark.sweep) for c in (True, False) for s in range(1, 5))],
)
def test_losses_and_gradients_equal_plain_loops(central, seed):
    model, target = networks(central, seed)
    episodes = toy_episodes(2, seed)
    batch = maddpg.transitions_of(episodes, 4)
    noise = gumbel_noise(batch.action.shape, torch.Generator().manual_seed(seed)).double()
    recipe = dataclasses.replace(RECIPE, logit_penalty=0.1, temperature=0.7)
    y = maddpg.targets(target, batch, recipe.gamma)
    ours = maddpg.critic_loss(model, batch, y)["loss"], maddpg.actor_loss(model, batch, noise, recipe)["loss"]
    theirs = plain_losses(model, target, episodes, noise, recipe)
    for a, b, part in zip(ours, theirs, (model.critic, model.actor), strict=True):
        assert a.item() == pytest.approx(b.item(), rel=1e-10)
        gradients = [flat_gradient(x, list(part.parameters())) for x in (a, b)]
        assert torch.allclose(*gradients, rtol=1e-9, atol=1e-12)


def test_absent_agents_count_nowhere():
    episodes, found = toy_episodes(), []
    for each in (episodes, with_garbage(episodes)):
        model, target = networks()
        batch = maddpg.transitions_of(each, 4)
        noise = gumbel_noise(batch.action.shape, torch.Generator().manual_seed(0)).double()
        critic = maddpg.critic_loss(model, batch, maddpg.targets(target, batch, 0.9))["loss"]
        gradients = grad_of(critic, model) + grad_of(
            maddpg.actor_loss(model, batch, noise, RECIPE)["loss"], model
        )
        found.append([critic.detach(), *gradients])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_an_actor_has_its_own_critic_s_gradient_alone():
    """And in it the others' actions are those of the buffer: their policies do not matter."""
    model, _ = networks()
    batch = maddpg.transitions_of(toy_episodes(), 4)
    noise = gumbel_noise(batch.action.shape, torch.Generator().manual_seed(0)).double()

    def gradient():
        grad_of(maddpg.actor_loss(model, batch, noise, RECIPE)["loss"], model)
        return model.actor[0].weight.grad.clone()

    before = gradient()
    with torch.no_grad():
        model.critic[2].weight[0] *= 3
        model.actor[2].weight[1] *= -2
    after = gradient()
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[2], after[2])


def test_target_networks_follow_slowly_and_noise_is_new_in_each_update():
    run = next(
        maddpg.build(dataclasses.replace(maddpg.RECIPES["smoke"], device="cpu", tau=0.25, gradient_steps=1))
    )
    model, target = run.state["model"], run.state["target_network"]
    batch, old = next(run.stream), [p.detach().clone() for p in target.parameters()]
    run.update(batch)
    for before, a, b in zip(old, target.parameters(), model.parameters(), strict=True):
        assert torch.allclose(a, 0.75 * before + 0.25 * b, atol=1e-6)
    assert "others' actions are from the replay buffer" in run.metadata["data"]
