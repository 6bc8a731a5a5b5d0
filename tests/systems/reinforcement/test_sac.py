"""SAC: updates equal stable-baselines3's, temperature and entropy hold each other, ends are told apart."""

import dataclasses

import pytest
import torch
from systems.reinforcement.twin_critics import compare, one_minibatch, train_both

from torchstone.errors import BadInput
from torchstone.parts.rl.distributions import SquashedGaussian
from torchstone.systems.reinforcement import sac

SMOKE = dataclasses.replace(sac.RECIPES["smoke"], device="cpu")


def test_sac_updates_equal_stable_baselines3(monkeypatch):
    """Their noise is ours: a minibatch's is of ã and then of a'."""
    from torch.distributions import normal

    drawn = []

    def standard_normal(shape, dtype, device):
        if not drawn:
            drawn.extend(torch.randn(2, *shape, dtype=dtype, device=device))
        return drawn.pop(0)

    monkeypatch.setattr(normal, "_standard_normal", standard_normal)
    recipe = dataclasses.replace(
        SMOKE, hidden=(48, 32), gradient_steps=12, lr=2e-3, max_episode_steps=30, learning_starts=200
    )
    pairs, algorithm, metrics = train_both(sac, "SAC", recipe)
    compare(pairs)
    theirs = algorithm.log_ent_coef.detach().exp().item()
    print("temperature", metrics["alpha"].item(), "theirs", theirs)
    assert metrics["alpha"].item() == pytest.approx(theirs, abs=1e-5)
    assert metrics["alpha"].item() < 0.99


def test_sac_target_is_soft_value_of_smaller_critic():
    run = next(sac.build(SMOKE))
    transitions, model = next(run.stream).transitions, run.state["model"].double()
    transitions = type(transitions)(*(None if c is None else c.double() for c in transitions))
    critics = run.state["target_critics"].double()
    with torch.no_grad():
        for p in critics.parameters():  # the target critics are their own networks
            p.add_(0.05)
    noise = torch.randn_like(transitions.action)
    y = sac.targets(model, critics, transitions, torch.tensor(-0.7).exp(), noise)
    x = model.trunk(transitions.next_observation)
    mean, std = model.mean_head(x), model.log_std_head(x).clamp(-20, 2).exp()
    action = (mean + std * noise).tanh()
    log_prob = torch.distributions.Normal(mean, std).log_prob(mean + std * noise) - (1 - action**2).log()
    q = critics(torch.cat([transitions.next_observation, action], 1)[None])[..., 0]
    value = torch.minimum(q[0], q[1]) - torch.tensor(-0.7).exp() * log_prob.sum(1)
    expected = (transitions.reward + 0.98 * value).detach()
    print("difference", (y - expected).abs().max().item())
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-6)


def test_sac_log_std_is_clamped_as_in_the_authors_code():
    model = sac.SAC((3,), 2)
    for bias, expected in ((50.0, 2.0), (-50.0, -20.0)):
        torch.nn.init.constant_(model.log_std_head.bias, bias)
        log_std = model.policy(torch.zeros(1, 3)).log_std
        print("log σ at a bias of", bias, log_std.tolist())
        assert (log_std == expected).all()


def test_sac_temperature_rises_where_entropy_is_below_target():
    """By how J_α moves log α alone: up where the policy is less random than asked, down where more."""
    log_alpha = torch.nn.Parameter(torch.tensor(0.3))
    for log_prob, sign in ((5.0, -1), (-5.0, 1)):  # of entropies -5 and 5, and the target is -1
        loss = sac.alpha_loss(log_alpha, torch.full((8,), log_prob), -1.0)["loss"]
        (gradient,) = torch.autograd.grad(loss, log_alpha)
        print("log π", log_prob, "gradient", gradient.item())
        assert gradient.item() * sign > 0
    assert torch.autograd.grad(sac.alpha_loss(log_alpha, torch.full((8,), 1.0), -1.0)["loss"], log_alpha) == (
        0,
    )


def test_sac_temperature_stays_without_learning():
    run = next(sac.build(dataclasses.replace(SMOKE, learn_alpha=False, init_alpha=0.2)))
    for _ in range(3):
        metrics = run.update(next(run.stream))
    assert metrics["alpha"].item() == pytest.approx(0.2)


def test_sac_truncation_bootstraps_and_termination_does_not():
    run, transitions, is_terminated = one_minibatch(sac, SMOKE)
    with torch.no_grad():
        run.state["target_critics"][-1].bias.fill_(50.0)
    noise = torch.zeros_like(transitions.action)
    y = sac.targets(run.state["model"], run.state["target_critics"], transitions, torch.tensor(1.0), noise)
    print(
        "targets after termination",
        y[is_terminated].mean().item(),
        "truncation",
        y[~is_terminated].mean().item(),
    )
    assert (y[is_terminated] == 1).all()
    assert (y[~is_terminated] > 40).all()


def test_sac_acts_at_random_first_and_greedily_by_the_mean():
    run = next(sac.build(dataclasses.replace(SMOKE, learning_starts=300)))
    model, transitions = run.state["model"], next(run.stream).transitions
    assert transitions.action.abs().max() <= 1
    assert 0.45 < transitions.action.abs().mean() < 0.55  # mostly uniform
    policy = model.policy(transitions.observation)
    assert isinstance(policy, SquashedGaussian)
    greedy = model.greedy(transitions.observation)
    torch.testing.assert_close(greedy, 2 * policy.mean.tanh())  # Pendulum's bounds are ±2
    noise = torch.full_like(policy.mean, 1.5)
    acted = run.stream.explorer
    acted.normal, acted.is_random = noise[None], [False]
    expected = (policy.mean + policy.log_std.exp() * 1.5).tanh()
    torch.testing.assert_close(acted.act(0, transitions.observation), expected)


def test_sac_refuses_discrete_actions():
    with pytest.raises(BadInput, match=r"discrete actions.*dqn, a2c or ppo"):
        next(sac.build(dataclasses.replace(SMOKE, data="CartPole-v1")))
