"""Exploration against its definitions."""

import math

import pytest
import torch

from torchstone.parts.rl.exploration import ActionNoise, EpsilonGreedy, linear_schedule


def test_linear_schedule_interpolates():
    rate = linear_schedule(1.0, 0.2, 100, delay=50)
    assert [rate(t) for t in (0, 50, 75, 100, 150, 10_000)] == pytest.approx([1.0, 1.0, 0.8, 0.6, 0.2, 0.2])
    assert linear_schedule(1.0, 0.2, 0)(0) == 0.2


def test_epsilon_greedy_action_frequencies():
    """With ε, the best action has 1 - ε + ε/n, the others ε/n each."""
    epsilon, n, count = 0.4, 4, 40_000
    explorer = EpsilonGreedy(lambda x: torch.full((len(x),), 2), n, lambda _: epsilon)
    explorer.sample_noise(count // 8, 8, 0, torch.Generator().manual_seed(0))
    actions = torch.cat([explorer.act(t, torch.zeros(8, 3)) for t in range(count // 8)])
    share = actions.bincount(minlength=n) / count
    expected = torch.full((n,), epsilon / n)
    expected[2] += 1 - epsilon
    print("shares", share.tolist(), "expected", expected.tolist())
    assert (share - expected).abs().max() < 4 * math.sqrt(0.25 / count)


def test_epsilon_greedy_counts_steps_of_all_envs():
    steps = []
    explorer = EpsilonGreedy(lambda x: x, 2, lambda env_steps: steps.append(env_steps) or 0.5)
    explorer.sample_noise(3, 5, 100, torch.Generator().manual_seed(0))
    assert steps == [100, 105, 110]


def make_noise(**options) -> ActionNoise:
    return ActionNoise(lambda x: torch.zeros(len(x), 2), 2, 500, **options)


def act(explorer: ActionNoise, steps: int) -> torch.Tensor:
    explorer.sample_noise(steps, 500, 0, torch.Generator().manual_seed(1))
    return torch.stack([explorer.act(t, torch.zeros(500, 3)) for t in range(steps)])


def test_action_noise_ornstein_uhlenbeck_statistics():
    """Its variance settles at σ²dt / (1 - (1-θdt)²), its correlation over a step is 1 - θdt."""
    theta, sigma, dt = 0.3, 0.1, 0.5
    x = act(make_noise(sigma=sigma, theta=theta, dt=dt), 400)[100:]
    decay = 1 - theta * dt
    expected = sigma**2 * dt / (1 - decay**2)
    correlation = ((x[1:] * x[:-1]).mean() / x.var()).item()
    print(f"variance {x.var():.5f} expected {expected:.5f}, correlation {correlation:.4f} {decay:.4f}")
    assert abs(x.var().item() / expected - 1) < 0.02
    assert abs(correlation - decay) < 0.005


def test_action_noise_gaussian_is_uncorrelated():
    x = act(make_noise(sigma=0.2), 400)
    correlation = ((x[1:] * x[:-1]).mean() / x.var()).item()
    print(f"deviation {x.std():.4f}, correlation {correlation:.4f}")
    assert abs(x.std().item() - 0.2) < 0.002
    assert abs(correlation) < 0.005


def test_action_noise_resets_with_episode_and_resumes():
    explorer, other = make_noise(sigma=0.1, theta=0.1), make_noise(sigma=0.1, theta=0.1)
    act(explorer, 5)
    other.load_state_dict(explorer.state_dict())
    done = torch.arange(500) < 250
    explorer.reset_done(done)
    assert not explorer.state[:250].any()
    assert explorer.state[250:].all()
    other.reset_done(done)
    assert torch.equal(act(explorer, 3), act(other, 3))


def test_action_noise_starts_uniform_and_clips():
    x = act(make_noise(sigma=0.1, learning_starts=500 * 50), 60)
    early, late = x[:50].flatten(), x[50:].flatten()
    quarters = torch.histc(early, 4, -1, 1) / len(early)
    print("quarters", quarters.tolist(), "later deviation", late.std().item())
    assert (quarters - 0.25).abs().max() < 0.01
    assert abs(late.std() - 0.1) < 0.01
    wild = act(make_noise(sigma=30.0), 5)
    assert wild.min() == -1
    assert wild.max() == 1
