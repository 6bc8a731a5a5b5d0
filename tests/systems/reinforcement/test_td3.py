"""TD3: updates equal stable-baselines3's, the three changes to DDPG do what they are for, ends are told apart."""

import dataclasses

import pytest
import torch
from systems.reinforcement.twin_critics import compare, one_minibatch, train_both

from torchstone.errors import BadInput
from torchstone.systems.reinforcement import td3

SMOKE = dataclasses.replace(td3.RECIPES["smoke"], device="cpu")


def test_td3_updates_equal_stable_baselines3():
    recipe = dataclasses.replace(
        SMOKE,
        hidden=(48, 32),
        gradient_steps=13,
        policy_delay=3,
        lr=2e-3,
        actor_lr=2e-3,
        max_episode_steps=30,
        learning_starts=200,
    )
    pairs, _, metrics = train_both(td3, "TD3", recipe)
    compare(pairs)
    assert "actor_loss" in metrics


def test_td3_delay_counts_minibatches_across_updates():
    """With d = 3 and two minibatches an update, the actor moves in the updates of minibatches 3, 6, 9, 12."""
    run = next(td3.build(dataclasses.replace(SMOKE, gradient_steps=2, policy_delay=3)))
    model, target = run.state["model"], run.state["target_network"]
    moved = []
    for _ in range(6):
        actor, critics = model.actor[0][0].weight.clone(), target.critics[0].weight.clone()
        metrics = run.update(next(run.stream))
        has_moved = not torch.equal(actor, model.actor[0][0].weight)
        assert has_moved == (not torch.equal(critics, target.critics[0].weight)) == ("actor_loss" in metrics)
        moved.append(has_moved)
    print("updates in which the actor moved", moved)
    assert moved == [False, True, True, False, True, True]


def test_td3_target_takes_smaller_critic_of_smoothed_action():
    torch.manual_seed(0)
    run = next(td3.build(SMOKE))
    target, transitions = run.state["target_network"], next(run.stream).transitions
    with torch.no_grad():
        target.actor[0][-1].bias.fill_(1.4)  # near the bound, beyond which the noise may not carry
    torch.manual_seed(5)
    y = td3.targets(target, transitions, SMOKE)
    torch.manual_seed(5)
    action = target.actor(transitions.next_observation)
    noise = (torch.randn_like(action) * 0.2).clamp(-0.5, 0.5)
    assert ((action + noise).abs() > 1).any()
    x = torch.cat([transitions.next_observation, (action + noise).clamp(-1, 1)], 1)
    q = [
        (x @ target.critics[0].weight[k] + target.critics[0].bias[k]).relu() @ target.critics[2].weight[k]
        for k in range(2)
    ]
    q = [
        (h + target.critics[2].bias[k]).relu() @ target.critics[4].weight[k] + target.critics[4].bias[k]
        for k, h in enumerate(q)
    ]
    expected = transitions.reward + 0.98 * torch.minimum(*q)[:, 0]
    is_first = (q[0] < q[1]).float().mean().item()
    print("share of rows where the first critic is the smaller", is_first, (y - expected).abs().max().item())
    assert 0.05 < is_first < 0.95
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-5)


def test_td3_truncation_bootstraps_and_termination_does_not():
    run, transitions, is_terminated = one_minibatch(td3, SMOKE)
    with torch.no_grad():
        run.state["target_network"].critics[-1].bias.fill_(50.0)
    y = td3.targets(run.state["target_network"], transitions, SMOKE)
    print(
        "targets after termination",
        y[is_terminated].mean().item(),
        "truncation",
        y[~is_terminated].mean().item(),
    )
    assert (y[is_terminated] == 1).all()
    assert (y[~is_terminated] > 40).all()


def test_td3_actor_ascends_first_critic_and_leaves_critics():
    recipe = dataclasses.replace(SMOKE, lr=0.0, gradient_steps=4)
    run = next(td3.build(recipe))
    model = run.state["model"]
    critics = [p.detach().clone() for p in model.critics.parameters()]
    transitions = next(run.stream).transitions
    before = model(transitions.observation)[1][0].mean().item()
    for _ in range(10):
        run.update(next(run.stream))
    after = model(transitions.observation)[1][0].mean().item()
    print("Q1 of what the actor does, before and after", before, after)
    assert after > before + 0.01
    assert all(torch.equal(a, b) for a, b in zip(critics, model.critics.parameters(), strict=True))


def test_td3_refuses_discrete_actions():
    with pytest.raises(BadInput, match=r"discrete actions.*dqn, a2c or ppo"):
        next(td3.build(dataclasses.replace(SMOKE, data="CartPole-v1")))
